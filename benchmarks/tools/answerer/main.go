// A gRPC server that does nothing but answer: each method of the command line with the bytes of its file.
//
//	answerer -listen 127.0.0.1:8001 /inference.GRPCInferenceService/ModelInfer=answer.bin ...
//
// Against it a load generator measures itself. It costs a fraction of a client's processor time, which a server
// in Python does not.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"runtime"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Messages stay the bytes that they are on the wire.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }

func (raw) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = data
	return nil
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8001", "host:port")
	flag.Parse()
	runtime.GOMAXPROCS(1)
	answers := map[string][]byte{}
	for _, argument := range flag.Args() {
		method, file, ok := strings.Cut(argument, "=")
		if !ok {
			log.Fatalf("%s: not METHOD=FILE", argument)
		}
		content, err := os.ReadFile(file)
		if err != nil {
			log.Fatal(err)
		}
		answers[method] = content
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(
		grpc.ForceServerCodec(raw{}),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			method, _ := grpc.MethodFromServerStream(stream)
			answer, ok := answers[method]
			if !ok {
				return status.Errorf(codes.Unimplemented, "no answer is given for %s", method)
			}
			var request []byte
			if err := stream.RecvMsg(&request); err != nil {
				return err
			}
			return stream.SendMsg(&answer)
		}),
	)
	fmt.Println("ready:", listener.Addr())
	log.Fatal(server.Serve(listener))
}
