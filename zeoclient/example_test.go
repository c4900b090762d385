package zeoclient_test

import (
	"context"
	"fmt"
	"log"
	"net"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/zeoclient"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// A client commits to a server and reads it back. The server may as well be Python's.
func ExampleOpen() {
	ctx := context.Background()
	server, err := zeoserver.New(zeoserver.Config{
		Storages: map[string]raidstorage.Storage{"main": memstorage.New("memory")},
	})
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- server.Serve(listener) }()

	s, err := zeoclient.Open(ctx, zeoclient.Options{Addresses: []string{listener.Addr().String()}, Storage: "main"})
	if err != nil {
		log.Fatal(err)
	}
	oids, err := s.NewOIDs(ctx, 1)
	if err != nil {
		log.Fatal(err)
	}
	txn, err := s.Begin(ctx, raidstorage.Meta{User: []byte("me")})
	if err != nil {
		log.Fatal(err)
	}
	defer txn.Abort(ctx) // has no effect after Finish
	if err := txn.Store(ctx, oids[0], 0, []byte("hello")); err != nil {
		log.Fatal(err)
	}
	if _, err := txn.Vote(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := txn.Finish(ctx); err != nil {
		log.Fatal(err)
	}
	revision, err := s.LoadBefore(ctx, oids[0], raidstorage.MaxTID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("object %v is %q\n", oids[0], revision.Data)
	if err := s.Close(); err != nil {
		log.Fatal(err)
	}
	if err := server.Close(); err != nil {
		log.Fatal(err)
	}
	<-served
	// Output: object 0000000000000001 is "hello"
}
