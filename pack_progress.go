package raidstorage

import (
	"fmt"
	"time"
)

// PackPhase is what a pack of a mirror is doing.
type PackPhase string

// The phases of a pack, in order.
const (
	PackWaiting   PackPhase = "wait"    // for a recovery or another pack
	PackFinding   PackPhase = "find"    // what is garbage
	PackPreparing PackPhase = "prepare" // the backends, which changes nothing yet
	PackPacking   PackPhase = "pack"    // the backends
	PackComparing PackPhase = "compare" // what they hold
)

// PackProgress tells how far a pack of a mirror is.
type PackProgress struct {
	Phase   PackPhase `json:"phase"`
	Started time.Time `json:"started"`
	Reason  string    `json:"reason,omitempty"` // what it waits for
	Through TID       `json:"through"`          // the pack time
	Cut     TID       `json:"cut"`              // the last transaction when it was decided, 0 before
	Garbage int64     `json:"garbage"`          // objects to drop, -1 where only the backends know
	Packed  []string  `json:"packed"`           // the backends that are through
	Failed  []string  `json:"failed"`           // those whose pack failed
	// Compared counts the objects that were compared.
	Compared int64 `json:"compared"`
}

// String tells the progress in one line.
func (p *PackProgress) String() string {
	s := fmt.Sprintf("pack to %v: %s", p.Through, p.Phase)
	if p.Reason != "" {
		s += " for " + p.Reason
	}
	if p.Cut != 0 && p.Garbage >= 0 {
		s += fmt.Sprintf(", %d objects to drop", p.Garbage)
	}
	if len(p.Packed) > 0 {
		s += fmt.Sprintf(", packed %v", p.Packed)
	}
	if len(p.Failed) > 0 {
		s += fmt.Sprintf(", failed %v", p.Failed)
	}
	if p.Compared > 0 {
		s += fmt.Sprintf(", %d objects compared", p.Compared)
	}
	return s
}

// progress updates what Status shows and tells watchers, not more often than they
// need it.
func (p *packing) progress(always bool, update func(*PackProgress)) {
	m := p.m
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	pp := *m.exclusion.pack
	update(&pp)
	m.exclusion.pack = &pp
	if !always && now.Sub(p.told) < progressEvery {
		return
	}
	p.told = now
	m.tell(Event{Kind: EventPack, Time: now, Condition: m.conditionLocked(), Pack: &pp})
}
