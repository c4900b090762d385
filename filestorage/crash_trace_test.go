//go:build linux

package filestorage_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"
)

// The seam of the crash campaign is the system call: a process that does the work is
// traced, and whatever it does to files below one directory is recorded, in an order
// in which it may have happened. So nothing the storage does can bypass the seam, and
// the storage needs no code for it.

// fsOp is one recorded operation. Paths are relative to the directory.
type fsOp struct {
	Kind     string // write, truncate, sync (it begins), synced (it ends), create, mkdir, link, rename, remove, mark
	Node     int    // the file or directory, whatever its names; for synced, the index of the sync
	Path, To string
	Off      int64  // of a write; the size of a truncate
	Data     []byte // of a write; a mark's words
}

func (op fsOp) String() string {
	switch op.Kind {
	case "write":
		return fmt.Sprintf("write %s at %d, %d bytes", op.Path, op.Off, len(op.Data))
	case "truncate":
		return fmt.Sprintf("truncate %s to %d", op.Path, op.Off)
	case "mark":
		return "-- " + string(op.Data)
	}
	return strings.TrimSpace(op.Kind + " " + op.Path + " " + op.To)
}

// marksPath is the file to which a traced process writes words for the record.
const marksPath = os.DevNull

// tracer records what the threads of one process do.
type tracer struct {
	root  string
	mem   *os.File
	ops   []fsOp
	names map[string]int // every path that is there
	nodes int
	open  map[int]*openFile
	calls map[int]sysCall // of the threads that are in one
	syncs map[int]int     // by thread, the op that the sync under way began with
	bad   error           // what it does not understand
}

type openFile struct {
	path string
	node int // -1: not below the directory
	pos  int64
	mark bool
}

type sysCall struct {
	nr   uint64
	args [6]uint64
}

// Of ptrace(2); the package syscall lacks them.
const (
	ptraceGetSyscallInfo = 0x420e
	ptraceOExitKill      = 1 << 20
	syscallStop          = syscall.SIGTRAP | 0x80
	waitAll              = 0x40000000 // __WALL
	atFDCWD              = -100
	atRemoveDir          = 0x200
)

// traceProcess runs argv with env to its end and returns what it did below root, which
// is empty. The calling process must not have other children.
func traceProcess(root string, argv, env []string) ([]fsOp, error) {
	runtime.LockOSThread() // ptrace's requests must come from one thread
	defer runtime.UnlockOSThread()
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Env: env, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		return nil, err
	}
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, waitAll, nil); err != nil || !ws.Stopped() {
		return nil, fmt.Errorf("the traced process did not stop: %v %v", ws, err)
	}
	if err := syscall.PtraceSetOptions(pid, syscall.PTRACE_O_TRACESYSGOOD|syscall.PTRACE_O_TRACECLONE|ptraceOExitKill); err != nil {
		return nil, err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, err
	}
	defer mem.Close()
	tr := &tracer{root: root, mem: mem, names: map[string]int{".": 0}, nodes: 1, open: make(map[int]*openFile),
		calls: make(map[int]sysCall), syncs: make(map[int]int)}
	if err := syscall.PtraceSyscall(pid, 0); err != nil {
		return nil, err
	}
	if err := tr.run(pid); err != nil {
		return nil, err
	}
	return tr.ops, tr.bad
}

// run follows all threads until the process pid ends.
func (tr *tracer) run(pid int) error {
	known := map[int]bool{pid: true}
	for {
		var ws syscall.WaitStatus
		tid, err := syscall.Wait4(-1, &ws, waitAll, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return err
		case ws.Exited() || ws.Signaled():
			if tid != pid {
				continue
			}
			if !ws.Exited() || ws.ExitStatus() != 0 {
				return fmt.Errorf("the traced process ended with %#x", int(ws))
			}
			return nil
		}
		signal := 0
		switch sig := ws.StopSignal(); {
		case sig == syscallStop:
			if err := tr.stop(tid); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		case sig == syscall.SIGTRAP: // a new thread was made
		case sig == syscall.SIGSTOP && !known[tid]: // it begins
		default:
			signal = int(sig)
		}
		known[tid] = true
		if err := syscall.PtraceSyscall(tid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
}

// stop looks at a thread that enters or leaves a system call.
func (tr *tracer) stop(tid int) error {
	var info [88]byte
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PTRACE, ptraceGetSyscallInfo, uintptr(tid), uintptr(len(info)), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 {
		return errno
	}
	const entry, exit, union = 1, 2, 24
	word := func(i int) uint64 { return binary.NativeEndian.Uint64(info[union+8*i:]) }
	switch info[0] {
	case entry:
		c := sysCall{nr: word(0)}
		for i := range c.args {
			c.args[i] = word(1 + i)
		}
		tr.calls[tid] = c
		tr.enter(tid, c)
	case exit:
		c := tr.calls[tid]
		delete(tr.calls, tid)
		tr.leave(tid, c, int64(word(0)), info[union+8] != 0)
	}
	return nil
}

func (tr *tracer) add(op fsOp) { tr.ops = append(tr.ops, op) }

// fd returns the file with the descriptor, nil if it is not of interest.
func (tr *tracer) fd(arg uint64) *openFile {
	if f := tr.open[int(int32(arg))]; f != nil && (f.node >= 0 || f.mark) {
		return f
	}
	return nil
}

func (tr *tracer) enter(tid int, c sysCall) {
	f := tr.fd(c.args[0])
	switch c.nr {
	case syscall.SYS_CLOSE:
		delete(tr.open, int(int32(c.args[0])))
	case syscall.SYS_FSYNC, syscall.SYS_FDATASYNC:
		if f != nil {
			tr.syncs[tid] = len(tr.ops)
			tr.add(fsOp{Kind: "sync", Node: f.node, Path: f.path})
		}
	}
}

// leave records what a system call has done that returned ret.
func (tr *tracer) leave(tid int, c sysCall, ret int64, failed bool) {
	if failed {
		delete(tr.syncs, tid)
		return
	}
	a := c.args
	switch c.nr {
	case syscall.SYS_OPENAT:
		tr.opened(int(ret), tr.path(a[0], a[1]), a[2])
	case syscall.SYS_MKDIRAT:
		tr.named("mkdir", tr.path(a[0], a[1]), "")
	case syscall.SYS_UNLINKAT:
		tr.named("remove", tr.path(a[0], a[1]), "")
	case syscall.SYS_LINKAT:
		tr.named("link", tr.path(a[0], a[1]), tr.path(a[2], a[3]))
	case syscall.SYS_RENAMEAT:
		tr.named("rename", tr.path(a[0], a[1]), tr.path(a[2], a[3]))
	default:
		if f := tr.fd(a[0]); f != nil {
			tr.done(tid, c, f, ret)
		}
	}
}

// done records what a call on an open file has done.
func (tr *tracer) done(tid int, c sysCall, f *openFile, ret int64) {
	switch c.nr {
	case syscall.SYS_WRITE:
		if f.mark {
			tr.add(fsOp{Kind: "mark", Data: bytes.TrimSpace(tr.read(c.args[1], int(ret)))})
			return
		}
		tr.add(fsOp{Kind: "write", Node: f.node, Path: f.path, Off: f.pos, Data: tr.read(c.args[1], int(ret))})
		f.pos += ret
	case syscall.SYS_PWRITE64:
		tr.add(fsOp{Kind: "write", Node: f.node, Path: f.path, Off: int64(c.args[3]), Data: tr.read(c.args[1], int(ret))})
	case syscall.SYS_READ:
		f.pos += ret
	case syscall.SYS_LSEEK:
		f.pos = ret
	case syscall.SYS_FTRUNCATE:
		tr.add(fsOp{Kind: "truncate", Node: f.node, Path: f.path, Off: int64(c.args[1])})
	case syscall.SYS_FSYNC, syscall.SYS_FDATASYNC:
		tr.add(fsOp{Kind: "synced", Node: tr.syncs[tid], Path: f.path})
		delete(tr.syncs, tid)
	case syscall.SYS_WRITEV, syscall.SYS_PWRITEV, syscall.SYS_FALLOCATE, syscall.SYS_SENDFILE:
		tr.bad = errors.Join(tr.bad, fmt.Errorf("system call %d on %s is not understood", c.nr, f.path))
	}
}

func (tr *tracer) opened(fd int, path string, flags uint64) {
	f := &openFile{path: path, node: -1, mark: path == marksPath}
	tr.open[fd] = f
	if f.mark || filepath.IsAbs(path) {
		return
	}
	node, there := tr.names[path]
	switch {
	case !there && flags&syscall.O_CREAT == 0:
		tr.bad = errors.Join(tr.bad, fmt.Errorf("%s was opened and never made", path))
		return
	case !there:
		node = tr.newNode(path)
		tr.add(fsOp{Kind: "create", Node: node, Path: path})
	case flags&syscall.O_TRUNC != 0:
		tr.add(fsOp{Kind: "truncate", Node: node, Path: path})
	}
	f.node = node
}

func (tr *tracer) newNode(path string) int {
	tr.nodes++
	tr.names[path] = tr.nodes - 1
	return tr.nodes - 1
}

// named records a change of names.
func (tr *tracer) named(kind, path, to string) {
	if filepath.IsAbs(path) {
		return
	}
	op := fsOp{Kind: kind, Path: path, To: to}
	switch kind {
	case "mkdir":
		op.Node = tr.newNode(path)
	case "remove":
		op.Node = tr.names[path]
		delete(tr.names, path)
	case "link", "rename":
		op.Node = tr.names[path]
		if kind == "rename" {
			delete(tr.names, path)
		}
		tr.names[to] = op.Node
	}
	tr.add(op)
}

// path reads a path: relative to the directory if it is below that, else absolute.
func (tr *tracer) path(dirfd, addr uint64) string {
	var b []byte
	const page = 4096
	for {
		part := tr.read(addr, int(page-addr%page))
		end := bytes.IndexByte(part, 0)
		if end >= 0 || len(part) == 0 {
			b = append(b, part[:max(end, 0)]...)
			break
		}
		b = append(b, part...)
		addr += uint64(len(part))
	}
	path := string(b)
	if !filepath.IsAbs(path) && int32(dirfd) != atFDCWD {
		dir := tr.open[int(int32(dirfd))]
		if dir == nil || dir.node < 0 {
			return "/elsewhere"
		}
		path = filepath.Join(tr.root, dir.path, path)
	}
	if rel, err := filepath.Rel(tr.root, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return filepath.Clean("/" + path)
}

// read copies n bytes of the process's memory.
func (tr *tracer) read(addr uint64, n int) []byte {
	b := make([]byte, n)
	if _, err := tr.mem.ReadAt(b, int64(addr)); err != nil {
		tr.bad = errors.Join(tr.bad, fmt.Errorf("read the memory of the traced process: %w", err))
		return nil
	}
	return b
}
