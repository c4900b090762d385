package zeowire

// maxName bounds the names of methods that are decoded at all.
const maxName = 255

// The methods that clients call.
const (
	Register            = "register"
	GetInfo             = "get_info"
	LastTransaction     = "lastTransaction"
	GetInvalidations    = "getInvalidations"
	NewOIDs             = "new_oids"
	NewOID              = "new_oid"
	Pack                = "pack"
	LoadBefore          = "loadBefore"
	LoadSerial          = "loadSerial"
	GetTID              = "getTid"
	StoreA              = "storea"
	CheckCurrentSerial  = "checkCurrentSerialInTransaction"
	DeleteObject        = "deleteObject"
	RestoreA            = "restorea"
	StoreBlobStart      = "storeBlobStart"
	StoreBlobChunk      = "storeBlobChunk"
	StoreBlobEnd        = "storeBlobEnd"
	StoreBlobShared     = "storeBlobShared"
	TPCBegin            = "tpc_begin"
	Vote                = "vote"
	TPCFinish           = "tpc_finish"
	TPCAbort            = "tpc_abort"
	History             = "history"
	RecordIternext      = "record_iternext"
	SendBlob            = "sendBlob"
	UndoA               = "undoa"
	UndoLog             = "undoLog"
	UndoInfo            = "undoInfo"
	IteratorStart       = "iterator_start"
	IteratorNext        = "iterator_next"
	IteratorRecordStart = "iterator_record_start"
	IteratorRecordNext  = "iterator_record_next"
	IteratorGC          = "iterator_gc"
	ServerStatus        = "server_status"
	SetClientLabel      = "set_client_label"
	Ping                = "ping"
)

// The methods that servers call, always async.
const (
	InvalidateTransaction = "invalidateTransaction"
	Info                  = "info"
	ReceiveBlobStart      = "receiveBlobStart"
	ReceiveBlobChunk      = "receiveBlobChunk"
	ReceiveBlobStop       = "receiveBlobStop"
)

// methodName returns name as a string, the constant if it is a frequent one: so no
// message of a load or a commit allocates its name.
func methodName(name []byte) string {
	for _, s := range [...]string{
		Reply, LoadBefore, StoreA, TPCBegin, Vote, TPCFinish, TPCAbort, InvalidateTransaction, Info, NewOIDs,
		CheckCurrentSerial, LoadSerial, GetTID, LastTransaction, RestoreA, StoreBlobStart, StoreBlobChunk,
		StoreBlobEnd, SendBlob, ReceiveBlobStart, ReceiveBlobChunk, ReceiveBlobStop, IteratorNext,
		IteratorRecordStart, IteratorRecordNext, Ping,
	} {
		if string(name) == s {
			return s
		}
	}
	return string(name)
}
