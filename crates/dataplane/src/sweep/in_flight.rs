//! Waits for packets that are between a rule and the connection tracking table.

use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{SysconfVar, sysconf};

/// `MEMBARRIER_CMD_GLOBAL` (`include/uapi/linux/membarrier.h`).
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
/// A thousand times as long as a packet spends in a hook.
const PAUSE: Duration = Duration::from_millis(20);

/// Returns once every packet that was in a netfilter hook at the time of the call has left the hook: it is
/// queued, dropped, or its connection is in the table.
///
/// A packet passes a hook's rules, up to the confirmation of its connection, inside one RCU read section
/// (`nf_hook`), and `membarrier`'s global command waits for all of those to end (`synchronize_rcu`). Where
/// the kernel lacks the command, and on a single core, where it does nothing, this function sleeps instead.
pub fn wait_for_packets_in_flight() {
    let one_core = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten() == Some(1);
    if one_core || global_barrier().is_err() {
        std::thread::sleep(PAUSE);
    }
}

#[allow(unsafe_code)]
fn global_barrier() -> Result<(), Errno> {
    // SAFETY: the call takes three numbers and accesses no memory of this process.
    let answer = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    Errno::result(answer).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_the_barrier() {
        assert_eq!(global_barrier(), Ok(()));
    }
}
