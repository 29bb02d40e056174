// The Go peers: `bench http PORT` serves the plain and the typed JSON route with net/http, `bench echo PORT` echoes TCP.
package main

import (
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
)

type user struct {
	ID   int     `json:"id"`
	Name *string `json:"name"`
}

func hello(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, "Hello, world!")
}

func getUser(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/users/"))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	answer := user{ID: id}
	if name := r.URL.Query().Get("name"); name != "" {
		answer.Name = &name
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer)
}

func echo(conn net.Conn) {
	defer conn.Close()
	buffer := make([]byte, 65536)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		if _, err := conn.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func main() {
	address := "127.0.0.1:" + os.Args[2]
	if os.Args[1] == "http" {
		http.HandleFunc("/users/", getUser)
		http.HandleFunc("/", hello)
		log.Fatal(http.ListenAndServe(address, nil))
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go echo(conn)
	}
}
