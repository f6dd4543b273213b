// Associations for kernels without SCTP sockets, over raw sockets: the handshake of RFC 9260, section 5.1, and an ABORT.
// That is what the suites' probes need: whether a port can be reached. The packets are those of any other SCTP stack, so
// nftables, conntrack and policies treat them alike.
package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log"
	"math/rand"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/kubernetes/test/images/agnhost/connect"
	"k8s.io/kubernetes/test/images/agnhost/porter"
)

// Types of chunks.
const (
	chunkInit       = 1
	chunkInitAck    = 2
	chunkAbort      = 6
	chunkCookieEcho = 10
	chunkCookieAck  = 11
)

const (
	// The network of raw sockets for SCTP over IPv4.
	rawNetwork = "ip4:132"
	// Source and destination port, verification tag, checksum.
	headerLength = 12
	// The header of a chunk or of a parameter: type, flags, length.
	chunkHeaderLength = 4
	// The fixed part of the value of INIT and INIT ACK.
	initLength = 16
	// The type of the parameter State Cookie.
	stateCookie = 7
	// The time until the first packet is sent again.
	retransmission = time.Second
	// The variables that name the ports of upstream's server.
	portPrefix = "SERVE_SCTP_PORT_"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A packet with one chunk.
type packet struct {
	source, destination uint16
	// The receiver's tag; 0 in an INIT.
	tag   uint32
	kind  byte
	value []byte
}

// kernelHasSCTP reports whether programs can open SCTP sockets.
func kernelHasSCTP() bool {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, syscall.IPPROTO_SCTP)
	if err != nil {
		return !errors.Is(err, syscall.EPROTONOSUPPORT)
	}
	syscall.Close(socket)
	return true
}

// withRawSCTP makes upstream's client and server use raw sockets for SCTP. Other protocols stay upstream's.
func withRawSCTP() {
	upstreamConnect, upstreamPorter := connect.CmdConnect.Run, porter.CmdPorter.Run
	connect.CmdConnect.Run = func(command *cobra.Command, arguments []string) {
		protocol, err := command.Flags().GetString("protocol")
		if err != nil || protocol != "sctp" {
			upstreamConnect(command, arguments)
			return
		}
		timeout, err := command.Flags().GetDuration("timeout")
		if err == nil {
			err = associate(arguments[0], timeout)
		}
		// Upstream's suites search for these words.
		if errors.Is(err, os.ErrDeadlineExceeded) {
			fmt.Fprint(os.Stderr, "TIMEOUT\n")
			os.Exit(1)
		} else if err != nil {
			fmt.Fprintf(os.Stderr, "OTHER: %v\n", err)
			os.Exit(1)
		}
	}
	porter.CmdPorter.Run = func(command *cobra.Command, arguments []string) {
		for _, variable := range os.Environ() {
			name, _, _ := strings.Cut(variable, "=")
			port, found := strings.CutPrefix(name, portPrefix)
			if !found {
				continue
			}
			// Upstream's server would end because the kernel has no SCTP.
			os.Unsetenv(name)
			number, err := strconv.ParseUint(port, 10, 16)
			if err != nil {
				log.Fatalf("%s names no port: %v", name, err)
			}
			go func() { log.Fatal(serve(uint16(number))) }()
		}
		upstreamPorter(command, arguments)
	}
}

// associate opens an association with host:port and aborts it.
func associate(to string, timeout time.Duration) error {
	host, port, err := net.SplitHostPort(to)
	if err != nil {
		return err
	}
	destination, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	connection, err := net.Dial(rawNetwork, host)
	if err != nil {
		return err
	}
	defer connection.Close()
	end := time.Now().Add(timeout)
	if timeout == 0 {
		end = time.Now().Add(time.Minute)
	}
	source, tag := uint16(32768+rand.Intn(28232)), rand.Uint32()|1
	send := func(tag uint32, kind byte, value []byte) error {
		_, err := connection.Write(packet{source, uint16(destination), tag, kind, value}.bytes())
		return err
	}
	// Sends a chunk until it is answered.
	ask := func(peer uint32, kind byte, value []byte, answer byte) (packet, error) {
		for {
			if err := send(peer, kind, value); err != nil {
				return packet{}, err
			}
			wait := time.Now().Add(retransmission)
			if wait.After(end) {
				wait = end
			}
			connection.SetReadDeadline(wait)
			received, err := receive(connection.(*net.IPConn), func(received packet) bool {
				return received.source == uint16(destination) && received.destination == source &&
					received.tag == tag && received.kind == answer
			})
			if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || !time.Now().Before(end) {
				return received, err
			}
		}
	}
	answer, err := ask(0, chunkInit, initValue(tag), chunkInitAck)
	if err != nil {
		return err
	}
	peer, cookie, err := answer.cookie()
	if err != nil {
		return err
	}
	if _, err := ask(peer, chunkCookieEcho, cookie, chunkCookieAck); err != nil {
		return err
	}
	return send(peer, chunkAbort, nil)
}

// serve accepts associations on a port. All that it knows of an association is in the cookie.
func serve(port uint16) error {
	connection, err := net.ListenPacket(rawNetwork, "0.0.0.0")
	if err != nil {
		return err
	}
	defer connection.Close()
	log.Printf("serving SCTP on port %d by a raw socket", port)
	buffer := make([]byte, 2048)
	for {
		length, from, err := connection.ReadFrom(buffer)
		if err != nil {
			return err
		}
		received, ok := parse(buffer[:length])
		if !ok || received.destination != port {
			continue
		}
		answer := packet{source: port, destination: received.source}
		switch {
		case received.kind == chunkInit && len(received.value) >= initLength:
			own := rand.Uint32() | 1
			answer.tag = binary.BigEndian.Uint32(received.value)
			answer.kind = chunkInitAck
			// The cookie holds the client's tag and our own.
			cookie := binary.BigEndian.AppendUint32(bytes.Clone(received.value[:4]), own)
			answer.value = append(initValue(own), chunk(0, stateCookie, cookie)...)
		case received.kind == chunkCookieEcho && len(received.value) == 8 &&
			binary.BigEndian.Uint32(received.value[4:]) == received.tag:
			answer.tag = binary.BigEndian.Uint32(received.value)
			answer.kind = chunkCookieAck
		default:
			continue
		}
		if _, err := connection.WriteTo(answer.bytes(), from); err != nil {
			log.Printf("answering %s: %v", from, err)
		}
	}
}

// receive returns the first packet that is wanted.
func receive(connection *net.IPConn, wanted func(packet) bool) (packet, error) {
	buffer := make([]byte, 2048)
	for {
		// Not Read, which would return the IP header, too.
		length, _, err := connection.ReadFrom(buffer)
		if err != nil {
			return packet{}, err
		}
		if received, ok := parse(buffer[:length]); ok && wanted(received) {
			return received, nil
		}
	}
}

// cookie returns the sender's tag and its state cookie, from an INIT ACK.
func (p packet) cookie() (uint32, []byte, error) {
	if len(p.value) < initLength {
		return 0, nil, errors.New("the INIT ACK is too short")
	}
	for rest := p.value[initLength:]; len(rest) >= chunkHeaderLength; {
		kind, length := binary.BigEndian.Uint16(rest), int(binary.BigEndian.Uint16(rest[2:]))
		if length < chunkHeaderLength || length > len(rest) {
			break
		}
		if kind == stateCookie {
			return binary.BigEndian.Uint32(p.value), bytes.Clone(rest[chunkHeaderLength:length]), nil
		}
		rest = rest[min((length+3)&^3, len(rest)):]
	}
	return 0, nil, errors.New("the INIT ACK has no cookie")
}

// parse reads a packet's first chunk.
func parse(raw []byte) (packet, bool) {
	if len(raw) < headerLength+chunkHeaderLength {
		return packet{}, false
	}
	length := int(binary.BigEndian.Uint16(raw[headerLength+2:]))
	if length < chunkHeaderLength || headerLength+length > len(raw) {
		return packet{}, false
	}
	return packet{
		source:      binary.BigEndian.Uint16(raw),
		destination: binary.BigEndian.Uint16(raw[2:]),
		tag:         binary.BigEndian.Uint32(raw[4:]),
		kind:        raw[headerLength],
		value:       bytes.Clone(raw[headerLength+chunkHeaderLength : headerLength+length]),
	}, true
}

func (p packet) bytes() []byte {
	raw := binary.BigEndian.AppendUint16(nil, p.source)
	raw = binary.BigEndian.AppendUint16(raw, p.destination)
	raw = binary.BigEndian.AppendUint32(raw, p.tag)
	raw = binary.BigEndian.AppendUint32(raw, 0)
	raw = append(raw, chunk(p.kind, 0, p.value)...)
	// RFC 9260, appendix A: the checksum's lowest byte comes first.
	binary.LittleEndian.PutUint32(raw[8:], crc32.Checksum(raw, castagnoli))
	return raw
}

// chunk is a chunk, or a parameter, whose type takes both of the first bytes.
func chunk(first, second byte, value []byte) []byte {
	raw := []byte{first, second}
	raw = binary.BigEndian.AppendUint16(raw, uint16(chunkHeaderLength+len(value)))
	raw = append(raw, value...)
	return append(raw, make([]byte, -len(raw)&3)...)
}

// initValue is the fixed part of INIT and INIT ACK: tag, window, one stream in each direction, first sequence number.
func initValue(tag uint32) []byte {
	value := binary.BigEndian.AppendUint32(nil, tag)
	value = binary.BigEndian.AppendUint32(value, 65536)
	value = binary.BigEndian.AppendUint16(value, 1)
	value = binary.BigEndian.AppendUint16(value, 1)
	return binary.BigEndian.AppendUint32(value, tag)
}
