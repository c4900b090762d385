package zeoserver_test

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// A server of one storage, for clients like
//
//	ZODB.DB(ZEO.ClientStorage.ClientStorage(('127.0.0.1', port)))
func Example() {
	storage := memstorage.New("example")
	defer storage.Close()
	server, err := zeoserver.New(zeoserver.Config{Storages: map[string]raidstorage.Storage{"1": storage}})
	if err != nil {
		fmt.Println(err)
		return
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	served := make(chan error)
	go func() { served <- server.Serve(listener) }()

	fmt.Println("connections:", server.Status()["1"].Connections)

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println("shutdown:", server.Shutdown(ctx), "served:", <-served)
	// Output:
	// connections: 0
	// shutdown: <nil> served: <nil>
}
