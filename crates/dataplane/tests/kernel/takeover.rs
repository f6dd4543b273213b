//! An agent's workers are replaced by the next agent's while packets arrive.

use std::net::UdpSocket;
use std::sync::mpsc::{TryRecvError, channel};
use std::thread;
use std::time::Duration;

use dataplane::queue_statistics::QueueStatistics;
use dataplane::queues::{QueueNumber, QueueRange};
use dataplane::workers::Workers;
use nix::sys::socket::{setsockopt, sockopt};

use crate::namespace::in_namespace;
use crate::rules::{create_chains, queue_to};
use crate::shop::{self, ADDRESSES, DB, WEB};
use crate::workers::config;

#[test]
fn no_packet_is_lost_in_ten_restarts() {
    in_namespace(&ADDRESSES, || {
        create_chains("postrouting", &[]);
        let published = shop::published(&[5000], 2);
        let start = |queues| Workers::start(config(queues), &published, |_| |_| {}).unwrap();
        let [mut ours, mut next] = QueueRange::pair(QueueNumber(100), 2).unwrap();
        let mut workers = start(ours);
        queue_to(Some(ours));

        let to = UdpSocket::bind((DB, 5000)).unwrap();
        setsockopt(&to, sockopt::RcvBufForce, &(256 << 20)).unwrap();
        to.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        // A panic closes the channel as well, so that the sender ends: the scope waits for its threads.
        let (running, stopped) = channel::<()>();
        let sent = thread::scope(|scope| {
            let sender = scope.spawn(move || {
                let from = UdpSocket::bind((WEB, 0)).unwrap();
                let mut sent = 0u32;
                while stopped.try_recv() == Err(TryRecvError::Empty) {
                    from.send_to(&sent.to_ne_bytes(), (DB, 5000)).unwrap();
                    sent += 1;
                    if sent.is_multiple_of(64) {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                sent
            });
            for _ in 0..10 {
                thread::sleep(Duration::from_millis(20));
                let successor = start(next);
                queue_to(Some(next));
                std::mem::replace(&mut workers, successor).stop();
                std::mem::swap(&mut ours, &mut next);
            }
            drop(running);
            sender.join().unwrap()
        });
        let dropped: u32 =
            QueueStatistics::read().unwrap().iter().map(|q| q.dropped_full + q.dropped_by_socket).sum();
        assert_eq!(dropped, 0);
        let mut arrived = vec![false; sent as usize];
        for _ in 0..sent {
            let mut bytes = [0; 4];
            if to.recv(&mut bytes).is_err() {
                break;
            }
            arrived[u32::from_ne_bytes(bytes) as usize] = true;
        }
        let lost: Vec<usize> =
            arrived.iter().enumerate().filter(|(_, arrived)| !**arrived).map(|(i, _)| i).collect();
        assert!(sent > 1_000 && lost.is_empty(), "{} of {sent} lost: {lost:?}", lost.len());
        workers.stop();
    });
}
