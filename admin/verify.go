package admin

// Verify tells how far a verification is.
type Verify struct {
	Objects int64 `json:"objects"` // compared so far
	Total   int64 `json:"total"`   // -1: not known
}

// Report is what a verification found.
type Report struct {
	Objects     int64        `json:"objects"` // compared
	Differences []Difference `json:"differences"`
}

// Difference is something that backends do not hold alike.
type Difference struct {
	OID  string `json:"oid"`
	Text string `json:"text"`
}
