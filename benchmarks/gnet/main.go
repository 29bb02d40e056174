// The gnet peer: `gnet PORT` echoes TCP on one event loop, as one core is all it is given.
package main

import (
	"log"
	"os"

	"github.com/panjf2000/gnet/v2"
	"github.com/panjf2000/gnet/v2/pkg/logging"
)

type echo struct {
	gnet.BuiltinEventEngine
}

func (*echo) OnTraffic(conn gnet.Conn) gnet.Action {
	data, err := conn.Next(-1)
	if err != nil {
		return gnet.Close
	}
	if _, err := conn.Write(data); err != nil {
		return gnet.Close
	}
	return gnet.None
}

func main() {
	log.Fatal(gnet.Run(&echo{}, "tcp://127.0.0.1:"+os.Args[1],
		gnet.WithMulticore(false), gnet.WithNumEventLoop(1), gnet.WithLogLevel(logging.ErrorLevel)))
}
