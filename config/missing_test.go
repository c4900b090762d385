package config_test

import (
	"testing"
)

// A mirror must start when a member's disk is away: that is what it is for. A storage
// without a mirror cannot be served then.
func TestMissingDirectoryOfAMember(t *testing.T) {
	t.Parallel()
	c := load(t, `<zeo>
address 8100
</zeo>
<raidstorage 1>
  <filestorage a>
    path Data.fs
  </filestorage>
  <filestorage b>
    path /no/such/dir/Data.fs
    blob-dir /no/such/dir/blobs
  </filestorage>
</raidstorage>
`, nil)
	if d := diff(messages(c.Warnings), []string{
		`zeo.conf:9: path: the directory of "/no/such/dir/Data.fs" does not exist`,
		`zeo.conf:10: blob-dir: the directory of "/no/such/dir/blobs" does not exist`,
	}); d != "" {
		t.Error(d)
	}
}
