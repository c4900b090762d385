package admin_test

import (
	"context"
	"fmt"
	"log"
	"net"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/admin"
	"github.com/zeoraid/raidstorage/memstorage"
)

// A program serves the control of its mirror; another one takes a backend out of it.
func Example() {
	ctx := context.Background()
	backend := func(name string) raidstorage.Backend {
		return raidstorage.Backend{Name: name, Open: func(context.Context) (raidstorage.Storage, error) { return memstorage.New(name), nil }}
	}
	mirror, err := raidstorage.Open(ctx, raidstorage.Config{
		Membership: &raidstorage.MemoryRegister{},
		Backends:   []raidstorage.Backend{backend("a"), backend("b")},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer mirror.Close()
	server, err := admin.New(admin.Config{Mirrors: map[string]*raidstorage.Mirror{"main": mirror}})
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()

	client := admin.Client{URL: "http://" + l.Addr().String()}
	end, err := client.Do(ctx, "main", admin.OpDisable, admin.Request{Backend: "a", Reason: "new disk"}, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(end.Text)
	status, err := client.Status(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(status.Mirrors[0].Condition, status.Mirrors[0].Reason)
	fmt.Println(server.Shutdown(ctx), <-ended)
	// Output:
	// a is disabled
	// degraded a: new disk
	// <nil> <nil>
}
