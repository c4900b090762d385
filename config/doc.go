// Package config reads ZConfig files as ZEO servers have them, and opens what they
// describe: storages, mirrors, listeners, the log.
//
// A file that runs a ZEO server runs ours: the line syntax, %define, %include,
// $(ENVIRONMENT) and the datatypes are those of ZConfig 4.3, the sections those of
// ZEO 6.2 and ZODB 6.4. New are <raidstorage> and <admin>:
//
//	%import gocept.zeoraid
//	<zeo>
//	  address 127.0.0.1:8000
//	</zeo>
//	<raidstorage main>
//	  <zeoclient 1>
//	    server localhost:8100
//	  </zeoclient>
//	  <filestorage 2>
//	    path /disk2/Data.fs
//	    blob-dir /disk2/blobs
//	  </filestorage>
//	  state-dir /var/lib/zeoraid
//	</raidstorage>
//	<admin>
//	  address 127.0.0.1:8180
//	</admin>
//
// # The keys of raidstorage
//
//	state-dir          where the record of who is in sync is kept; it is made if missing;
//	                   default: NAME-state beside the configuration file
//	write-quorum       copies that a commit needs; default 1 of two full members, else most
//	start-quorum       members in sync that are needed to serve; default write-quorum
//	read-policy        round-robin (default), least-latency, primary-first
//	auto-recover       whether failed members are recovered unasked; default yes
//	spare-after        how long a full member may be out of sync before one with role spare
//	                   takes its place; default 10 m
//	catch-up-ratio     while a member is recovered: bytes to recover for each byte that is
//	                   committed, for which commits wait; default 2; off: they do not wait
//	catch-up-max-delay the longest that one commit waits for that; default 2 s
//	scrub-interval     pause between verifications of all members in the background, at
//	                   least 1m; default off
//	scrub-rate         bytes that they read of each member per second; default 10MB
//	scrub-repair       whether they put right in place what is known to be wrong; default no
//	open-timeout       to open a member, at least 1 s; default 30 s
//	vote-timeout       for begin, stores and vote; default 30 s
//	finish-timeout     for finish and abort; default 30 s
//	read-timeout       for one read; default 10 s
//	timeout            gocept.zeoraid's: for all four that are not given
//	pack-timeout       for one member's part of a pack; default 24 h
//	pack-compare-rate  how many bytes a second the comparison after a pack reads of each
//	                   member, such as 20MB; default 0: as fast as it goes
//
// and those of its members, beside their own:
//
//	role               full (default); async: it follows the others, is never waited for and
//	                   counts for nothing; spare: it takes the place of a full one that is
//	                   out for long
//	bandwidth          of a member with role async: bytes a second at most, also as 10MB
//
// Durations are ZConfig's time-interval: seconds, or with s, m, h, d.
//
// # What is not as in ZEO
//
// client-conflict-resolution is on unless it is turned off: the server has no Python
// classes to resolve conflicts with. Members of a mirror must have names. address may be given several times. %import is
// not needed for the sections of the packages that may be imported. Keys of <zeoclient>
// and <clientstorage> can be mixed. <logfile> has the formats text and json. What
// would show only later is said at once: values out of range, servers without a
// port, two storages over one file. %include takes files only.
//
// A <zeoclient> with shared-blob-dir true and blob-dir, the blob directory that its server
// has, reads and puts blobs there instead of sending them; members of a mirror can, each
// with its own server's.
//
// Refused, as they cannot be obeyed: <demostorage>, handlers other than <logfile>,
// create true, quota, password-function, authenticate DYNAMIC,
// revocation lists, the authentication of ZEO 4. What is accepted without effect, such
// as <runner>, monitor-address and the paths of caches, is named in Config.Warnings.
package config
