package zeoserver_test

import "time"

// noDeadline is for connections that have no need of one.
var noDeadline = time.Time{}
