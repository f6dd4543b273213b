//! Checks that query the kernel over netlink.

use nix::errno::Errno;

use super::config::PreflightConfig;
use super::result::{Check, CheckState};
use super::{foreign_marks, origins, other_rules};
use crate::conntrack::statistics;
use crate::netlink::{self, Header, Messages, NetlinkError, Socket};
use crate::queues::QueueRange;
use crate::table::{self, Table, TableError};

/// `NFNL_SUBSYS_QUEUE` in the high byte.
const QUEUE: u16 = 3 << 8;
/// `NFQNL_MSG_CONFIG` with `NFQA_CFG_CMD`, command `NFQNL_CFG_CMD_PF_BIND`: it has no effect since kernel
/// 3.8, and is answered if the subsystem is there.
const QUEUE_CONFIG: u16 = QUEUE | 2;
const CONFIG_COMMAND: u16 = 1;
const BIND_FAMILY: u8 = 3;
/// `NFNL_SUBSYS_ULOG` in the high byte, and `NFULNL_MSG_CONFIG`.
const LOG_CONFIG: u16 = (4 << 8) | 1;

/// From this fill level on the connection tracking table is a warning, in percent.
const NEARLY_FULL: u64 = 80;
/// From this fill level on the table counts as full, in percent: at its limit the kernel evicts some entries
/// to insert others, so the number stays a little below.
const FULL: u64 = 99;

/// The socket for requests, or why it could not be opened.
type OpenSocket<'a> = Result<&'a mut Socket, NetlinkError>;

fn open(socket: &mut Result<Socket, NetlinkError>) -> OpenSocket<'_> {
    socket.as_mut().map_err(|error| *error)
}

/// Runs the checks, in order. Without permission the kernel refuses all other requests, so no further check
/// runs.
pub(super) fn checks(config: &PreflightConfig) -> Vec<Check> {
    let mut checks = Vec::new();
    // One socket for all requests: closing it may take the kernel a while (see `Batch::commit`).
    let mut socket = Socket::open();
    match open(&mut socket).map_err(TableError::from_reading).and_then(table::read_generation) {
        Err(TableError::NotPermitted) => {
            let todo = "run as root, or add the capability NET_ADMIN to the container";
            checks.push(Check {
                name: "permission",
                state: CheckState::wrong("CAP_NET_ADMIN is missing", todo),
            });
            return checks;
        }
        Err(error) => {
            checks.push(Check { name: "permission", state: CheckState::fine("CAP_NET_ADMIN is there") });
            checks.push(Check {
                name: "nf_tables",
                state: CheckState::wrong(error.to_string(), "load the module nf_tables"),
            });
        }
        Ok(_) => {
            checks.push(Check { name: "permission", state: CheckState::fine("CAP_NET_ADMIN is there") });
            checks.push(Check { name: "nf_tables", state: CheckState::fine("nftables answers") });
            checks.push(Check { name: "queue-rule", state: queue_rule(open(&mut socket)) });
            checks.push(Check { name: "table", state: table(open(&mut socket)) });
            let tables = open(&mut socket).and_then(origins::read_tables);
            let state = origins::check(tables, Table::protections_available, config.bridge);
            checks.push(Check { name: "origins", state });
            if let Some(marks) = &config.marks {
                let found = open(&mut socket).and_then(|socket| foreign_marks::read(socket, marks));
                checks.push(Check { name: "marks", state: foreign_marks::check(found, marks) });
                let found = open(&mut socket).and_then(other_rules::read);
                checks.push(Check { name: "other-rules", state: other_rules::check(found) });
            }
        }
    }
    checks.push(Check {
        name: "nfnetlink_queue",
        state: nfnetlink_queue(open(&mut socket).and_then(query_queue)),
    });
    checks.push(Check { name: "nfnetlink_log", state: nfnetlink_log(open(&mut socket).and_then(query_log)) });
    checks.push(Check { name: "conntrack", state: conntrack(open(&mut socket).and_then(statistics)) });
    checks
}

/// The queues to which the agent's rules send packets now, or why they can't be read.
pub(super) fn queues_in_use() -> Result<Option<QueueRange>, TableError> {
    Table::queues_in_use()
}

fn queue_rule(socket: OpenSocket<'_>) -> CheckState {
    match socket.map_err(TableError::from_reading).and_then(table::available_form) {
        Ok(form) => CheckState::fine(format!("packets go to userspace by {form}")),
        Err(error) => CheckState::wrong(
            error.to_string(),
            "load the module nft_queue (or nft_compat and xt_NFQUEUE), or use a kernel built with \
             CONFIG_NFT_QUEUE",
        ),
    }
}

fn table(socket: OpenSocket<'_>) -> CheckState {
    match socket.map_err(TableError::from_reading).and_then(table::check_holder) {
        Ok(()) => CheckState::fine("no other program holds the table inet kube-verdict"),
        Err(error) => CheckState::wrong(
            error.to_string(),
            "find out which program it is (`nft list table inet kube-verdict`), stop it, and start the agent \
             again",
        ),
    }
}

fn nfnetlink_queue(answer: Result<(), NetlinkError>) -> CheckState {
    match answer {
        Ok(()) => CheckState::fine("NFQUEUE answers"),
        Err(error) => CheckState::wrong(
            format!("NFQUEUE doesn't answer ({error})"),
            "load the module nfnetlink_queue, or use a kernel built with CONFIG_NETFILTER_NETLINK_QUEUE",
        ),
    }
}

fn query_queue(socket: &mut Socket) -> Result<(), NetlinkError> {
    let sequence = socket.next_sequence();
    let mut request = Messages::default();
    let header = Header { kind: QUEUE_CONFIG, flags: netlink::REQUEST | netlink::ACK, sequence, family: 0 };
    request.push(header, |config| {
        // `struct nfqnl_msg_config_cmd`: command, padding, family.
        config.bytes(CONFIG_COMMAND, &[BIND_FAMILY, 0, 0, 0]);
    });
    socket.send_and_wait(request.as_bytes(), sequence)
}

fn nfnetlink_log(answer: Result<(), NetlinkError>) -> CheckState {
    match answer {
        // The group is not bound, or another socket has bound it: in both cases the subsystem has answered.
        Ok(()) | Err(NetlinkError::Refused { errno: Errno::ENODEV | Errno::EPERM, .. }) => {
            CheckState::fine("NFLOG answers")
        }
        Err(error) => CheckState::warning(
            format!(
                "NFLOG doesn't answer ({error}): an agent with an audit log enforces policy but is not \
                 ready, and counts connections that the kernel allows from its cache as lost records"
            ),
            "load the modules nft_log and nfnetlink_log, or start the agent with --audit-log off",
        ),
    }
}

/// Sends a configuration of group 0 that changes nothing: the answer shows whether the subsystem is there.
fn query_log(socket: &mut Socket) -> Result<(), NetlinkError> {
    let sequence = socket.next_sequence();
    let mut request = Messages::default();
    let flags = netlink::REQUEST | netlink::ACK;
    request.push(Header { kind: LOG_CONFIG, flags, sequence, family: 0 }, |_| {});
    socket.send_and_wait(request.as_bytes(), sequence)
}

fn conntrack(answer: Result<(u32, u32), NetlinkError>) -> CheckState {
    let (entries, limit) = match answer {
        Ok(numbers) => numbers,
        Err(error) => {
            return CheckState::partly(
                format!(
                    "the connection tracking table can't be read ({error}): existing connections don't \
                     follow changes of policy; new ones do"
                ),
                "load the modules nf_conntrack and nf_conntrack_netlink, or use a kernel built with \
                 CONFIG_NF_CT_NETLINK",
            );
        }
    };
    let what = format!("{entries} of {limit} connections are in the connection tracking table");
    let todo = format!(
        "raise the limit, for example `sysctl -w net.netfilter.nf_conntrack_max={}`, and find out what opens \
         the connections (`conntrack -L`)",
        limit.saturating_mul(2)
    );
    let percent = |share: u64| u64::from(limit) * share;
    if u64::from(entries) * 100 >= percent(FULL) {
        CheckState::partly(
            format!(
                "{what}: it is full, and the kernel drops new connections; all packets that pass are under \
                 policy"
            ),
            todo,
        )
    } else if u64::from(entries) * 100 > percent(NEARLY_FULL) {
        CheckState::warning(format!("{what}: when it is full, new connections are dropped"), todo)
    } else {
        CheckState::fine(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conntrack_table_is_fine_up_to_80_percent_and_wrong_when_full() {
        let state = |entries, most| match conntrack(Ok((entries, most))) {
            CheckState::Fine { .. } => "fine",
            CheckState::Warning { todo, .. } => {
                assert!(todo.contains("sysctl -w net.netfilter.nf_conntrack_max="), "{todo}");
                "warning"
            }
            CheckState::Wrong { todo, prevents_enforcing, .. } => {
                assert!(!prevents_enforcing, "the rules don't depend on it");
                assert!(todo.contains("sysctl -w net.netfilter.nf_conntrack_max="), "{todo}");
                "wrong"
            }
        };
        assert_eq!(state(0, 1000), "fine");
        // A full table seldom has its last entry taken: one has ended, and the next has not begun.
        assert_eq!(state(262_140, 262_144), "wrong");
        assert_eq!(state(800, 1000), "fine");
        assert_eq!(state(801, 1000), "warning");
        assert_eq!(state(989, 1000), "warning");
        assert_eq!(state(990, 1000), "wrong");
        assert_eq!(state(1000, 1000), "wrong");
        assert_eq!(state(u32::MAX - 1, u32::MAX), "wrong");
    }

    #[test]
    fn a_subsystem_that_does_not_answer_is_wrong() {
        let refused = NetlinkError::Refused { sequence: 1, errno: Errno::EINVAL };
        assert!(conntrack(Err(refused)).is_wrong());
        assert!(nfnetlink_queue(Err(refused)).is_wrong());
        assert!(!nfnetlink_queue(Ok(())).is_wrong());
        assert!(matches!(nfnetlink_log(Err(refused)), CheckState::Warning { .. }));
        let not_bound = NetlinkError::Refused { sequence: 1, errno: Errno::ENODEV };
        assert!(matches!(nfnetlink_log(Err(not_bound)), CheckState::Fine { .. }));
    }
}
