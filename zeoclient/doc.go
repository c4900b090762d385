// Package zeoclient makes a storage of one remote ZEO server: unmodified Python
// ones (ZEO 5 and 6), and package zeoserver's.
//
// Many calls share a connection and are under way at the same time; a transaction
// is collected here and leaves in one write when it votes. The protocol is ZEO's
// version 5 in either encoding, see internal/zeowire.
package zeoclient
