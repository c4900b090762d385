package pickleref

// The opcodes, with the names of Python's pickletools.
const (
	opMark           = '('
	opStop           = '.'
	opPop            = '0'
	opPopMark        = '1'
	opDup            = '2'
	opBinBytes       = 'B'
	opShortBinBytes  = 'C'
	opFloat          = 'F'
	opBinFloat       = 'G'
	opInt            = 'I'
	opBinInt         = 'J'
	opBinInt1        = 'K'
	opLong           = 'L'
	opBinInt2        = 'M'
	opNone           = 'N'
	opPersID         = 'P'
	opBinPersID      = 'Q'
	opReduce         = 'R'
	opString         = 'S'
	opBinString      = 'T'
	opShortBinString = 'U'
	opUnicode        = 'V'
	opBinUnicode     = 'X'
	opAppend         = 'a'
	opBuild          = 'b'
	opGlobal         = 'c'
	opDict           = 'd'
	opAppends        = 'e'
	opGet            = 'g'
	opBinGet         = 'h'
	opInst           = 'i'
	opLongBinGet     = 'j'
	opList           = 'l'
	opObj            = 'o'
	opPut            = 'p'
	opBinPut         = 'q'
	opLongBinPut     = 'r'
	opSetItem        = 's'
	opTuple          = 't'
	opSetItems       = 'u'
	opEmptyTuple     = ')'
	opEmptyList      = ']'
	opEmptyDict      = '}'

	// Protocol 2.
	opProto    = 0x80
	opNewObj   = 0x81
	opExt1     = 0x82
	opExt2     = 0x83
	opExt4     = 0x84
	opTuple1   = 0x85
	opTuple2   = 0x86
	opTuple3   = 0x87
	opNewTrue  = 0x88
	opNewFalse = 0x89
	opLong1    = 0x8a
	opLong4    = 0x8b

	// Protocol 4.
	opShortBinUnicode = 0x8c
	opBinUnicode8     = 0x8d
	opBinBytes8       = 0x8e
	opEmptySet        = 0x8f
	opAddItems        = 0x90
	opFrozenSet       = 0x91
	opNewObjEx        = 0x92
	opStackGlobal     = 0x93
	opMemoize         = 0x94
	opFrame           = 0x95

	// Protocol 5.
	opByteArray8     = 0x96
	opNextBuffer     = 0x97
	opReadOnlyBuffer = 0x98
)

// layout says what follows an opcode.
type layout uint8

const (
	layoutUnknown layout = iota // there is no such opcode
	layoutNone
	layoutFixed1
	layoutFixed2
	layoutFixed4
	layoutFixed8
	layoutCounted1 // a length of 1 byte and that many bytes
	layoutCounted4
	layoutCounted8
	layoutLine // up to a newline
	layoutTwoLines
)

func layoutOf(op byte) layout {
	switch op {
	case opMark, opStop, opPop, opPopMark, opDup, opNone, opBinPersID, opReduce, opAppend, opBuild, opDict,
		opAppends, opList, opObj, opSetItem, opTuple, opSetItems, opEmptyTuple, opEmptyList, opEmptyDict,
		opNewObj, opTuple1, opTuple2, opTuple3, opNewTrue, opNewFalse, opEmptySet, opAddItems, opFrozenSet,
		opNewObjEx, opStackGlobal, opMemoize, opNextBuffer, opReadOnlyBuffer:
		return layoutNone
	case opBinInt1, opBinGet, opBinPut, opProto, opExt1:
		return layoutFixed1
	case opBinInt2, opExt2:
		return layoutFixed2
	case opBinInt, opLongBinGet, opLongBinPut, opExt4:
		return layoutFixed4
	case opBinFloat, opFrame: // a frame's content is opcodes again
		return layoutFixed8
	case opShortBinBytes, opShortBinString, opShortBinUnicode, opLong1:
		return layoutCounted1
	case opBinBytes, opBinString, opBinUnicode, opLong4:
		return layoutCounted4
	case opBinUnicode8, opBinBytes8, opByteArray8:
		return layoutCounted8
	case opFloat, opInt, opLong, opPersID, opString, opUnicode, opGet, opPut:
		return layoutLine
	case opGlobal, opInst:
		return layoutTwoLines
	}
	return layoutUnknown
}
