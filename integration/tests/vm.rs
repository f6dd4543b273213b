//! The same stories on Debian's kernel, in a virtual machine: the native `queue` expression, SCTP, and the DNS race.

use std::path::Path;
use std::time::Duration;

use integration::vm::{self, Image, Kernel};
use integration::{agent, namespace};

/// Emulated, a boot takes seconds and the stories a minute or two.
const PATIENCE: Duration = Duration::from_secs(480);

const STORIES: [&str; 4] = ["native", "smoke", "sctp", "dns"];

#[test]
fn another_kernel_tells_the_same_stories() {
    namespace::require_root().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_vm-smoke"));
    let target = program.ancestors().nth(2).unwrap();
    let kernel = Kernel::cached(&target.join("vm")).unwrap();
    let mut image = Image::new()
        .program(&agent::binary().unwrap(), "kube-verdict")
        .program(program, "vm-smoke")
        .command("kernel", "busybox uname -r");
    for story in STORIES {
        image = image.command(story, &format!("KUBE_VERDICT_BIN=/bin/kube-verdict vm-smoke {story} 2>&1"));
    }
    let console = vm::run(&kernel, &image, PATIENCE).unwrap();
    eprintln!("{}", console.text);
    assert!(console.text.contains(kernel.version()));
    for story in STORIES {
        assert_eq!(console.exit_code(story), Some(0), "the story {story} in the virtual machine");
    }
}
