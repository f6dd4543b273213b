//! Scenarios on Debian's kernel in a virtual machine: the native `queue` expression, SCTP, and the DNS race.

use std::path::Path;
use std::time::Duration;

use integration::vm::{self, Initramfs, Kernel};
use integration::{agent, namespace};

/// The timeout of the run. In the emulator, the boot takes seconds and the scenarios a minute or two.
const TIMEOUT: Duration = Duration::from_secs(480);

const SCENARIOS: [&str; 4] = ["native", "smoke", "sctp", "dns"];

#[test]
fn scenarios_pass_on_another_kernel() {
    namespace::require_root().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_vm-smoke"));
    let target = program.ancestors().nth(2).unwrap();
    let kernel = Kernel::cached(&target.join("vm")).unwrap();
    let mut image = Initramfs::new()
        .program(&agent::binary().unwrap(), "kube-verdict")
        .program(program, "vm-smoke")
        .command("kernel", "busybox uname -r");
    for scenario in SCENARIOS {
        image =
            image.command(scenario, &format!("KUBE_VERDICT_BIN=/bin/kube-verdict vm-smoke {scenario} 2>&1"));
    }
    let console = vm::run(&kernel, &image, TIMEOUT).unwrap();
    eprintln!("{}", console.text);
    assert!(console.text.contains(kernel.version()));
    for scenario in SCENARIOS {
        assert_eq!(console.exit_code(scenario), Some(0), "the scenario {scenario} in the virtual machine");
    }
}
