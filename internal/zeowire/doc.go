// Package zeowire is the wire layer of ZEO's protocol 5, for clients and for servers:
// sized frames, the handshake, and messages in both encodings, pickle (Z5) and
// MessagePack (M5). It reads and writes bytes; it has no goroutines, deadlines or
// policy.
//
//	frame   = 4 bytes big-endian length, body
//	first   = server announces "Z5" or "M5"; client answers "Z5", "M5" or "ruok"
//	message = the tuple (id, flag, name, args)
//
// Decoding builds Values only: the few plain types that a message may hold, and
// exceptions as data. No name in a pickle makes anything else happen. What a peer
// sends is bounded in size, depth and count before memory is spent on it, and
// everything that is not understood is a *DecodeError.
//
// A Writer encodes into one buffer, many frames at a time; for the messages that
// loads and commits consist of, it allocates nothing else.
package zeowire
