use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, sleep};

use axum::routing::get;
use tokio::net::TcpListener;

use super::*;

const QUICK: Duration = Duration::from_millis(200);
/// Longer than any test takes.
const NEVER: Duration = Duration::from_secs(600);

const LIMITS: Limits = Limits { requests: 4, responses: 2, request_timeout: NEVER, timeout: NEVER };

/// More than the kernel buffers for a client that doesn't read.
const LARGE: usize = 32 << 20;

/// A server on a thread like the agent's, until the test's process ends.
fn server(limits: Limits) -> SocketAddr {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let address = listener.local_addr().expect("its address");
    let routes =
        Router::new().route("/livez", get(async || "ok\n")).route("/large", get(async || "x".repeat(LARGE)));
    thread::spawn(move || runtime.block_on(serve(listener, "--http-port", routes, limits)));
    address
}

fn sent(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("accepted");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time");
    stream.write_all(request.as_bytes()).expect("sent");
    stream
}

fn requested(address: SocketAddr, path: &str) -> TcpStream {
    sent(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

/// All bytes until the connection is closed or reset.
fn read_response(mut stream: &TcpStream) -> String {
    let mut response = Vec::new();
    if let Err(error) = stream.read_to_end(&mut response) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "an end");
    }
    String::from_utf8(response).expect("text")
}

/// Whether the connection stays open for a while.
fn is_open(stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(QUICK)).expect("a time");
    stream.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn a_request_is_served_though_incomplete_ones_hold_all_connections_and_the_oldest_is_closed() {
    let address = server(LIMITS);
    let held = [(); 4].map(|()| sent(address, "GET /livez HTTP/1.1\r\nHost:"));
    let response = read_response(&requested(address, "/livez"));
    assert!(response.starts_with("HTTP/1.1 200 OK") && response.ends_with("ok\n"), "{response}");
    assert!(response.contains("connection: close"), "one request a connection: {response}");
    let [oldest, others @ .., mut newest] = held;
    assert_eq!(read_response(&oldest), "", "closed without a response");
    assert!(others.iter().all(is_open), "the others may still send the rest");
    newest.write_all(b" localhost\r\n\r\n").expect("sent");
    assert!(read_response(&newest).ends_with("ok\n"));
}

#[test]
fn no_more_connections_than_the_limit_stay_open() {
    let address = server(LIMITS);
    let held: Vec<TcpStream> = (0..10 * LIMITS.requests).map(|_| sent(address, "GET")).collect();
    sleep(QUICK);
    assert_eq!(held.iter().filter(|stream| is_open(stream)).count(), LIMITS.requests);
}

#[test]
fn clients_that_do_not_read_their_response_are_closed_for_the_next() {
    let address = server(LIMITS);
    let held = [(); 3].map(|()| {
        let stream = requested(address, "/large");
        // The server must read this request before the next one.
        sleep(QUICK);
        stream
    });
    // Bytes that were sent before the close can still be read.
    let oldest = read_response(&held[0]).len();
    assert!(oldest < LARGE, "ended at {oldest} bytes");
    assert!(read_response(&requested(address, "/livez")).ends_with("ok\n"));
    assert!(read_response(&held[2]).len() > LARGE, "whole");
}

#[test]
fn incomplete_requests_and_unread_responses_time_out() {
    let address = server(Limits { request_timeout: QUICK, ..LIMITS });
    let started = Instant::now();
    read_response(&sent(address, "GET /livez HTTP/1.1\r\n"));
    read_response(&sent(address, ""));
    assert!(started.elapsed() >= 2 * QUICK, "not at once: {:?}", started.elapsed());

    let address = server(Limits { timeout: QUICK, ..LIMITS });
    let slow = requested(address, "/large");
    sleep(2 * QUICK);
    let read = read_response(&slow).len();
    assert!(read < LARGE, "ended at {read} bytes");
}

#[test]
fn a_too_long_request_is_refused() {
    let address = server(LIMITS);
    let mut stream = sent(address, "GET /livez HTTP/1.1\r\n");
    // The server may refuse the request before all of it is sent.
    let _ = stream.write_all(format!("x: {}\r\n\r\n", "x".repeat(2 * LONGEST_REQUEST)).as_bytes());
    let response = read_response(&stream);
    assert!(!response.contains("200 OK"), "{response}");
}

#[test]
fn most_descriptors_are_left_to_other_purposes() {
    for (files, connections) in [(0, 16), (256, 16), (600, 22), (1024, 128), (1 << 20, 256), (u64::MAX, 256)]
    {
        let limits = Limits::of(OpenFiles(files));
        assert_eq!(limits.requests + limits.responses, connections, "{files}");
    }
}
