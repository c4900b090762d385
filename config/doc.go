// Package config reads ZConfig files as ZEO servers have them, and opens what they
// describe: storages, mirrors, listeners, the log.
//
// A file that runs a ZEO server runs ours: the line syntax, %define, %include,
// $(ENVIRONMENT) and the datatypes are those of ZConfig 4.3, the sections those of
// ZEO 6.2 and ZODB 6.4. What has no meaning here is refused, or accepted with an
// entry in Config.Warnings, never passed over in silence. New are <raidstorage> with
// its keys, and <admin>:
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
package config
