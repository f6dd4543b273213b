//! The memory that reading and writing the state on disk takes, with 2,000 pods of one template as large as
//! the API server accepts: 110 kB each as text, and 220 MB in total.

#![allow(clippy::unwrap_used, reason = "a state that can't be created is a bug in the test, and must end it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use cluster::{Source, StateDir};
use policy::Change;
use serde_json::{Value, json};

/// Bytes in use by all threads, and their maximum.
static IN_USE: AtomicIsize = AtomicIsize::new(0);
static MOST: AtomicIsize = AtomicIsize::new(0);

struct Counting;

impl Counting {
    fn add(bytes: isize) {
        let now = IN_USE.fetch_add(bytes, Ordering::Relaxed) + bytes;
        MOST.fetch_max(now, Ordering::Relaxed);
    }
}

// SAFETY: every call passes its arguments on to the system allocator; counting accesses none of the caller's
// memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::add(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Self::add(-layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::add(size.cast_signed() - layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The maximum of bytes in use above `before`, since the last call.
fn most_since(before: isize) -> isize {
    MOST.swap(IN_USE.load(Ordering::Relaxed), Ordering::Relaxed) - before
}

/// The state of a folder with 2,000 such pods in the file `pods.yaml`.
fn state(folder: &std::path::Path) -> String {
    let keys = (0..256).map(|number| format!("{number:0>253}/{number:0>63}"));
    let values = (0..256).map(|number| format!("{number:0>63}"));
    let ports = (0..256).map(|number| format!("{number:0>15}"));
    let texts: Vec<String> = keys.chain(values).chain(ports).collect();
    let labels: Vec<(u32, u32)> = (0..256).map(|number| (number, 256 + number)).collect();
    let ports: Vec<(u32, u8, u32)> = (0..256).map(|number| (512 + number, 6, number)).collect();
    let pod = |number: u32| {
        json!([{"pod": {
            "name": {"namespace": "web", "name": format!("pod-{number:04}")}, "labels": 0, "ports": 0,
            "addresses": [format!("10.0.{}.{}", number / 256, number % 256)], "node": "n", "host_network": false,
            "reported": 1, "created": 1, "uid": "0f2c4b6a7d1e4c559a401f2e3d4c5b6a",
        }}, 0, 1])
    };
    let pods: Vec<Value> = (0..2_000).map(pod).collect();
    let body = json!({
        "tables": {"texts": texts, "labels": [labels], "ports": [ports]},
        "source": {"folder": {"files": [{"path": "pods.yaml", "objects": pods}]}},
    });
    let body = body.to_string();
    let header = json!({
        "format": "kube-verdict state", "version": 2, "source": format!("folder {}", folder.display()), "node": "n",
        "term": 1, "saved": 1, "bytes": body.len(), "crc32": crc32fast::hash(body.as_bytes()),
    });
    format!("{header}\n{body}")
}

#[test]
fn reading_and_writing_the_state_takes_little_more_memory_than_the_pods() {
    let (dir, state_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // The file is broken, so its pods are those of the state.
    fs::write(dir.path().join("pods.yaml"), "{").unwrap();
    let text = state(dir.path());
    fs::write(state_dir.path().join("state.json"), &text).unwrap();
    assert!(text.len() < 1 << 20, "{}", text.len());
    drop(text);
    let source = Source::Folder { path: dir.path().to_owned(), budget: policy::Budget::default() };
    let state_dir = StateDir { path: state_dir.path().to_owned(), node: "n".into() };
    let before = IN_USE.load(Ordering::Relaxed);
    most_since(before);
    let (send, updates) = channel();
    let watch = source.watch(Some(&state_dir), move |update| drop(send.send(update))).unwrap();
    let first = updates.recv().unwrap();
    let pods = first.changes.iter().filter(|change| matches!(change, Change::Pod(_))).count();
    assert_eq!((pods, watch.state().unwrap().now().error), (2_000, None));
    // The ports of each pod take 6 kB, in the source and in the update.
    let (most, in_use) = (most_since(before), IN_USE.load(Ordering::Relaxed) - before);
    assert!(most < 48 << 20, "{most} bytes while it was read, {in_use} after it");
    let before = IN_USE.load(Ordering::Relaxed);
    most_since(before);
    let saved = watch.state().unwrap().now().saved;
    watch.permit_state(true);
    fs::write(dir.path().join("more.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n")
        .unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while watch.state().unwrap().now().saved == saved {
        assert!(Instant::now() < end, "{:?}", watch.state());
        std::thread::sleep(Duration::from_millis(10));
    }
    let most = most_since(before);
    assert!(most < 8 << 20, "{most} bytes while it was written");
    let written = fs::metadata(state_dir.path.join("state.json")).unwrap().len();
    assert!(written < 1 << 20, "{written}");
}
