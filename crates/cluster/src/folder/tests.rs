//! Scenarios of folders, with real files and real inotify: what is written, and what the consumer gets.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use policy::{Inventory, Pod};
use tempfile::TempDir;

use super::*;
use crate::ReadCounts;
use crate::key::Key;

mod restart;

/// The timeout of every wait. Longer than anything takes on a busy machine; reached only when a test fails.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Long enough for a wrong update to arrive.
const SILENCE: Duration = Duration::from_millis(150);

/// A policy in namespace `web`.
fn policy(name: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: web}}\n\
         spec: {{podSelector: {{}}}}\n"
    )
}

/// A different policy of the same name, with a rule.
fn other_policy(name: &str) -> String {
    policy(name).replace("{podSelector: {}}", "{podSelector: {}, ingress: [{}]}")
}

fn pod(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: web}}\nstatus: {{podIP: {ip}}}\n"
    )
}

/// A watched folder and what its consumer has.
struct Scenario {
    dir: TempDir,
    updates: Receiver<Update>,
    known: Inventory,
    /// All problems except the missing Namespace, which most scenarios leave out.
    problems: Vec<Problem>,
    /// The problem of the missing Namespace.
    missing: Vec<Problem>,
    read: ReadCounts,
    /// Every object that was ever removed.
    gone: Vec<String>,
    watch: Option<FolderWatch>,
}

impl Scenario {
    /// Starts with these files, by name and content, before the folder is read.
    fn begin(files: &[(&str, &str)]) -> Self {
        Self::within(policy::Budget::default(), files)
    }

    /// Starts with these files, and keeps rules up to a budget.
    fn within(budget: policy::Budget, files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("a file");
        }
        let (send, updates) = channel();
        let (folder, first) = Folder::read(dir.path(), budget).expect("a readable folder");
        let watch = folder.watch(move |update| drop(send.send(update))).expect("a watch");
        let mut scenario = Self {
            dir,
            updates,
            known: Inventory::default(),
            problems: Vec::new(),
            missing: Vec::new(),
            read: ReadCounts::default(),
            gone: Vec::new(),
            watch: Some(watch),
        };
        scenario.apply(first);
        scenario
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    /// Writes a temporary file and renames it, as careful programs do.
    fn replace(&self, name: &str, text: &str) {
        self.write(&format!("{name}.tmp"), text);
        self.rename(&format!("{name}.tmp"), name);
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).expect("a rename");
    }

    fn apply(&mut self, update: Update) {
        let (missing, problems): (Vec<_>, Vec<_>) = update
            .problems
            .iter()
            .cloned()
            .partition(|problem| problem.what.contains("no file has a Namespace"));
        assert!(
            !update.changes.is_empty()
                || problems != self.problems
                || missing != self.missing
                || update.read != self.read
                || self.known == Inventory::default()
        );
        self.read = update.read;
        for change in update.changes {
            if matches!(
                change,
                policy::Change::NamespaceGone(_)
                    | policy::Change::NodeGone(_)
                    | policy::Change::PodGone(_)
                    | policy::Change::PolicyGone(_)
            ) {
                self.gone.push(Key::of(&change).to_string());
            }
            let before = self.known.clone();
            self.known.apply(change.clone());
            assert_ne!(before, self.known, "a change that changes nothing: {change:?}");
        }
        (self.problems, self.missing) = (problems, missing);
    }

    /// The objects in force.
    fn objects(&self) -> Vec<String> {
        let policies = self
            .known
            .policies
            .values()
            .map(|policy| format!("{} with {} rules", policy.name, policy.ingress.len()));
        let pod = |pod: &Arc<Pod>| {
            let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
            format!("{} at {}", pod.name, addresses.join(" "))
        };
        let mut pods: Vec<String> = self.known.pods.values().map(pod).collect();
        pods.sort();
        policies.chain(pods).collect()
    }

    /// Waits until these objects are in force. Returns how long that took.
    fn until(&mut self, objects: &[&str]) -> Duration {
        let start = Instant::now();
        while self.objects() != objects {
            match self.updates.recv_timeout(TIMEOUT.saturating_sub(start.elapsed())) {
                Ok(update) => self.apply(update),
                Err(_) => {
                    panic!("expected {objects:?}, found {:?}, problems {:?}", self.objects(), self.problems)
                }
            }
        }
        start.elapsed()
    }

    /// Waits until there are these problems, each given as a part of its text.
    fn until_problems(&mut self, parts: &[&str]) {
        let start = Instant::now();
        let matches = |problems: &[Problem]| {
            problems.len() == parts.len()
                && problems.iter().zip(parts).all(|(problem, part)| problem.to_string().contains(part))
        };
        while !matches(&self.problems) {
            match self.updates.recv_timeout(TIMEOUT.saturating_sub(start.elapsed())) {
                Ok(update) => self.apply(update),
                Err(_) => panic!("expected {parts:?}, found {:?}", self.problems),
            }
        }
    }

    /// Waits until the one problem of missing namespaces has this in its text, or, if `part` is empty, until
    /// there is none.
    fn until_missing(&mut self, part: &str) {
        let start = Instant::now();
        while !match self.missing.as_slice() {
            [problem] => !part.is_empty() && problem.what.contains(part),
            _ => part.is_empty(),
        } {
            match self.updates.recv_timeout(TIMEOUT.saturating_sub(start.elapsed())) {
                Ok(update) => self.apply(update),
                Err(_) => panic!("expected {part:?}, found {:?}", self.missing),
            }
        }
    }

    /// Checks that there is no update.
    fn expect_no_update(&mut self) {
        if let Ok(update) = self.updates.recv_timeout(SILENCE) {
            panic!("unexpected: {update:?}");
        }
    }
}

#[test]
fn files_that_exist_at_the_start_are_in_the_first_update() {
    let mut scenario = Scenario::begin(&[
        ("a.yaml", &format!("{}---\n{}", policy("a"), pod("p", "10.0.0.1"))),
        ("b.json", r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"j","namespace":"web"}}"#),
        (".hidden.yaml", &policy("hidden")),
        ("notes.txt", &policy("notes")),
    ]);
    assert_eq!(scenario.objects(), ["web/a with 0 rules", "web/j at ", "web/p at 10.0.0.1"]);
    assert_eq!(scenario.known.namespaces.len(), 1, "the pods' namespace is known by its name");
    scenario.expect_no_update();
}

#[test]
fn files_with_other_extensions_and_broken_links_are_counted_and_the_first_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    for name in ["a.yaml", "a.yaml.bak", "b.txt", "c.yaml~", ".d.txt", ".a.yaml.swp", "..data", "README"] {
        fs::write(path(name), policy("a")).expect("a file");
    }
    symlink("nothing", path("gone.yaml")).expect("a link");
    symlink("nothing", path(".gone.yaml")).expect("a link");
    symlink("a.yaml", path("link.txt")).expect("a link");
    fs::create_dir(path("folder.d")).expect("a folder");
    let (mut folder, update) =
        Folder::read(dir.path(), policy::Budget::default()).expect("a readable folder");
    assert_eq!(
        (update.read.unread, &*update.read.unread_files.join(" ")),
        (6, "README a.yaml.bak b.txt c.yaml~ gone.yaml")
    );
    assert_eq!(update.read.files, Some(1));
    // Once the link has a target, it is a manifest.
    fs::write(path("nothing"), policy("b")).expect("a file");
    let found = scan(dir.path(), |_, _| {});
    folder.beside(&found, Vec::new());
    let update = folder.files.update(&folder.root).expect("an update");
    assert_eq!((update.read.unread, found.manifests.len()), (6, 2), "the file and not the link");
}

#[test]
fn namespaces_that_no_file_describes_are_reported_in_one_problem() {
    let in_namespace = |name: &str| policy("p").replace("namespace: web", &format!("namespace: {name}"));
    let mut scenario = Scenario::begin(&[("a.yaml", &policy("a")), ("b.yaml", &in_namespace("db"))]);
    let [problem] = scenario.missing.as_slice() else { panic!("{:?}", scenario.missing) };
    assert!(problem.what.ends_with("2 namespaces that no file has a Namespace for: db, web"), "{problem}");
    let described = |name: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
    scenario.write("n.yaml", &described("db"));
    scenario.until_missing("namespace web,");
    scenario.write("n.yaml", &format!("{}---\n{}", described("db"), described("web")));
    scenario.until_missing("");
    let many: Vec<String> = (0..100).map(|n| in_namespace(&format!("n{n:02}"))).collect();
    scenario.write("c.yaml", &many.join("---\n"));
    scenario.until_missing("n00, n01, n02, n03, n04 and 95 more");
}

/// A policy with this many rules, each of one entry.
fn large_policy(name: &str, rules: usize) -> String {
    policy(name)
        .replace("{podSelector: {}}", &format!("{{podSelector: {{}}, ingress: [{}]}}", "{}, ".repeat(rules)))
}

#[test]
fn rules_that_did_not_fit_are_read_again_once_they_do() {
    let budget = policy::Budget { namespace: 150, total: 1_000 };
    let both = large_policy("a", 50) + "---\n" + &large_policy("b", 100);
    let mut scenario = Scenario::within(budget, &[("both.yaml", &both), ("c.yaml", &large_policy("c", 60))]);
    assert_eq!(scenario.objects(), ["web/a with 50 rules", "web/b with 0 rules", "web/c with 60 rules"]);
    scenario.write("d.yaml", &large_policy("d", 55));
    scenario.until(&[
        "web/a with 50 rules",
        "web/b with 0 rules",
        "web/c with 0 rules",
        "web/d with 55 rules",
    ]);
    for name in ["c.yaml", "d.yaml"] {
        fs::remove_file(scenario.path(name)).expect("removed");
    }
    scenario.until(&["web/a with 50 rules", "web/b with 0 rules"]);
    scenario.write("both.yaml", &both.replace("name: a,", "name: c,"));
    scenario.until(&["web/b with 0 rules", "web/c with 50 rules"]);
    scenario.write("c.yaml", &large_policy("c", 10));
    // Both files' rules count. Those of the last file are in force, and those of the other would be if it
    // were removed.
    scenario.until(&["web/b with 0 rules", "web/c with 10 rules"]);
    scenario.write("both.yaml", &large_policy("b", 100));
    scenario.until(&["web/b with 100 rules", "web/c with 10 rules"]);
}

#[test]
fn a_file_that_is_broken_when_its_rules_fit_has_them_once_it_is_repaired() {
    let budget = policy::Budget { namespace: 150, total: 1_000 };
    let mut scenario =
        Scenario::within(budget, &[("a.yaml", &large_policy("a", 100)), ("b.yaml", &large_policy("b", 50))]);
    assert_eq!(scenario.objects(), ["web/a with 0 rules", "web/b with 50 rules"]);
    scenario.write("a.yaml", &(large_policy("a", 100) + "---\n["));
    scenario.until_problems(&["a.yaml"]);
    fs::remove_file(scenario.path("b.yaml")).expect("removed");
    scenario.until(&["web/a with 0 rules"]);
    scenario.write("a.yaml", &large_policy("a", 100));
    scenario.until(&["web/a with 100 rules"]);
}

#[test]
fn a_policy_whose_file_replaces_another_file_keeps_its_rules() {
    // In each order of names and files.
    let names = [
        ("a.yaml", "a", "b.yaml", "b"),
        ("b.yaml", "b", "a.yaml", "a"),
        ("a.yaml", "x", "b.yaml", "x"),
        ("b.yaml", "x", "a.yaml", "x"),
    ];
    // More entries than are added before the budget is settled, in a file that is small enough to be read
    // inline, and in one that is not.
    let sizes = [18_000, 30_000];
    for ((old, before, new, after), rules) in
        names.into_iter().flat_map(|names| sizes.map(|rules| (names, rules)))
    {
        let budget = policy::Budget { namespace: rules as u64 + 10_000, total: 1_000_000 };
        let large = |name: &str| large_policy(name, rules).replace("}, ", "},");
        let mut scenario = Scenario::within(budget, &[(old, &large(before))]);
        scenario.write("new", &large(after));
        scenario.rename("new", new);
        fs::remove_file(scenario.path(old)).expect("removed");
        scenario.write("z.yaml", &policy("z"));
        let expected = [format!("web/{after} with {rules} rules"), "web/z with 0 rules".to_owned()];
        while scenario.objects() != expected || scenario.read.files != Some(2) {
            let update = scenario.updates.recv_timeout(TIMEOUT).expect("an update");
            scenario.apply(update);
            let has_rules = scenario.known.policies.values().any(|policy| policy.ingress.len() == rules);
            assert!(has_rules, "{old} {new} {rules}: {:?}", scenario.objects());
        }
    }
}

#[test]
fn rules_of_a_policy_in_two_files_are_read_again_from_both() {
    let budget = policy::Budget { namespace: 150, total: 1_000 };
    let files = [
        ("a.yaml", &*large_policy("a", 100)),
        ("b.yaml", &large_policy("x", 50)),
        ("c.yaml", &large_policy("x", 60)),
    ];
    let mut scenario = Scenario::within(budget, &files);
    assert_eq!(scenario.objects(), ["web/a with 100 rules", "web/x with 0 rules"]);
    // In one walk: the rules fit, and one of the two files is read in any case.
    scenario.replace("a.yaml", &policy("a"));
    scenario.replace("b.yaml", &large_policy("x", 40));
    scenario.until(&["web/a with 0 rules", "web/x with 60 rules"]);
}

#[test]
fn a_file_is_created_edited_and_removed() {
    let mut scenario = Scenario::begin(&[]);
    scenario.write("a.yaml", &policy("a"));
    scenario.until(&["web/a with 0 rules"]);
    scenario.write("a.yaml", &other_policy("a"));
    scenario.until(&["web/a with 1 rules"]);
    fs::remove_file(scenario.path("a.yaml")).expect("removed");
    scenario.until(&[]);
}

#[test]
fn writing_the_same_content_again_is_not_a_change() {
    let mut scenario = Scenario::begin(&[("a.yaml", &policy("a"))]);
    scenario.write("a.yaml", &policy("a"));
    scenario.replace("a.yaml", &format!("# only a comment is new\n{}", policy("a")));
    scenario.expect_no_update();
}

#[test]
fn a_file_replaced_by_rename_is_never_gone() {
    let mut scenario = Scenario::begin(&[("a.yaml", &policy("a"))]);
    scenario.replace("a.yaml", &other_policy("a"));
    scenario.until(&["web/a with 1 rules"]);
    // As vim does it: the old file is renamed, the new one is written, and the old one is removed.
    scenario.rename("a.yaml", "a.yaml~");
    scenario.write("a.yaml", &policy("a"));
    fs::remove_file(scenario.path("a.yaml~")).expect("removed");
    scenario.until(&["web/a with 0 rules"]);
    assert_eq!(scenario.gone, Vec::<String>::new());
}

#[test]
fn a_file_under_a_new_name_keeps_its_objects() {
    let mut scenario = Scenario::begin(&[("a.yaml", &policy("a")), ("m.yaml", &policy("m"))]);
    scenario.rename("a.yaml", "z.yaml");
    scenario.rename("m.yaml", "b.yaml");
    scenario.expect_no_update();
    fs::remove_file(scenario.path("z.yaml")).expect("removed");
    scenario.until(&["web/m with 0 rules"]);
}

#[test]
fn a_change_is_published_within_50_ms_of_the_last_write() {
    let mut scenario = Scenario::begin(&[("a.yaml", &policy("a"))]);
    let mut times = Vec::new();
    for round in 0..5 {
        let rules = if round % 2 == 0 { other_policy("a") } else { policy("a") };
        if round < 3 {
            scenario.write("a.yaml", &rules)
        } else {
            scenario.replace("a.yaml", &rules)
        }
        times.push(scenario.until(&[&format!("web/a with {} rules", (round + 1) % 2)]));
    }
    times.sort();
    assert!(times[0] < Duration::from_millis(50), "{times:?}");
    assert!(
        times[2] < Duration::from_millis(100),
        "the median, on a machine that is busy with other tests: {times:?}"
    );
}

#[test]
fn constant_writing_elsewhere_delays_nothing() {
    let mut scenario = Scenario::begin(&[("a.yaml", &policy("a"))]);
    let noise = scenario.path("noise.yaml");
    let (stop, stopped) = channel::<()>();
    let writer = std::thread::spawn(move || {
        let mut number = 0;
        while stopped.recv_timeout(Duration::from_millis(3))
            == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            number += 1;
            fs::write(&noise, format!("# {number}\n{}", pod("noise", "10.0.0.9"))).expect("a file");
        }
    });
    scenario.until(&["web/a with 0 rules", "web/noise at 10.0.0.9"]);
    scenario.write("a.yaml", &other_policy("a"));
    scenario.until(&["web/a with 1 rules", "web/noise at 10.0.0.9"]);
    drop(stop);
    writer.join().expect("the writer");
    assert_eq!(scenario.gone, Vec::<String>::new(), "a file that is always being rewritten was never empty");
}

#[test]
fn a_configmap_mount_is_replaced_by_its_link() {
    let dir = tempfile::tempdir().expect("a folder");
    let mount = dir.path().join("mount");
    for (version, text) in [("..1", policy("a")), ("..2", other_policy("a"))] {
        fs::create_dir_all(mount.join(version)).expect("a folder");
        fs::write(mount.join(version).join("a.yaml"), text).expect("a file");
    }
    fs::write(mount.join("..1/b.yaml"), policy("b")).expect("a file");
    symlink("..1", mount.join("..data")).expect("a link");
    symlink("..data/a.yaml", mount.join("a.yaml")).expect("a link");
    symlink("..data/b.yaml", mount.join("b.yaml")).expect("a link");

    let mut scenario = Scenario::begin(&[]);
    let (send, updates) = channel();
    let (folder, first) = Folder::read(&mount, policy::Budget::default()).expect("a readable folder");
    scenario.watch = Some(folder.watch(move |update| drop(send.send(update))).expect("a watch"));
    scenario.updates = updates;
    scenario.apply(first);
    assert_eq!(scenario.objects(), ["web/a with 0 rules", "web/b with 0 rules"]);
    symlink("..2", mount.join("..data_tmp")).expect("a link");
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).expect("a rename");
    scenario.until(&["web/a with 1 rules"]);
    assert_eq!(scenario.gone, ["NetworkPolicy web/b"], "b.yaml is a broken link now; a was never gone");
}

#[test]
fn subfolders_come_move_and_go() {
    let mut scenario = Scenario::begin(&[]);
    fs::create_dir_all(scenario.path("x/y")).expect("folders");
    scenario.write("x/y/a.yaml", &policy("a"));
    scenario.until(&["web/a with 0 rules"]);
    scenario.write("x/y/b.yaml", &policy("b"));
    scenario.until(&["web/a with 0 rules", "web/b with 0 rules"]);
    scenario.rename("x", "z");
    scenario.expect_no_update();
    scenario.write("z/y/b.yaml", &other_policy("b"));
    scenario.until(&["web/a with 0 rules", "web/b with 1 rules"]);
    fs::remove_dir_all(scenario.path("z")).expect("removed");
    scenario.until(&[]);
    fs::create_dir_all(scenario.path("z/y")).expect("folders");
    scenario.write("z/y/c.yaml", &policy("c"));
    scenario.until(&["web/c with 0 rules"]);
}

#[test]
fn many_files_at_once_are_all_seen() {
    let mut scenario = Scenario::begin(&[]);
    fs::create_dir(scenario.path("many")).expect("a folder");
    for number in 0..300 {
        scenario.write(&format!("many/{number:03}.yaml"), &pod(&format!("p{number:03}"), "10.0.0.1"));
    }
    let expected: Vec<String> = (0..300).map(|number| format!("web/p{number:03} at 10.0.0.1")).collect();
    scenario.until(&expected.iter().map(String::as_str).collect::<Vec<_>>());
    fs::remove_dir_all(scenario.path("many")).expect("removed");
    scenario.until(&[]);
}

#[test]
fn read_counts_are_always_reported_and_a_file_that_is_not_a_manifest_is_not_a_problem() {
    let mut scenario = Scenario::begin(&[
        ("a.yaml", &format!("{}---\n{}", policy("a"), pod("p", "10.0.0.1"))),
        ("d.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n"),
        ("chart.yaml", "name: {{ .Values.name }}\n{{- if .x }}\n"),
        ("empty.yaml", "# nothing yet\n"),
        ("kustomization.yaml", "resources: [a.yaml]\n"),
    ]);
    assert_eq!(
        scenario.read.to_string(),
        "5 files, 2 objects, 1 policy; 1 object of kinds that no verdict needs; skipped 2 files without \
         Kubernetes objects: chart.yaml, kustomization.yaml"
    );
    assert_eq!(scenario.problems, []);
    scenario.write("values.json", "{\"replicas\": 2}");
    let start = Instant::now();
    while scenario.read.skipped != 3 {
        let update = scenario.updates.recv_timeout(TIMEOUT.saturating_sub(start.elapsed())).expect("a count");
        scenario.apply(update);
    }
    assert_eq!(scenario.problems, []);
    scenario.write("values.json", &format!("replicas: 2\n---\n{}", policy("b")));
    scenario.until_problems(&["values.json:1: the object has no kind"]);
    scenario.until(&["web/a with 0 rules", "web/b with 0 rules", "web/p at 10.0.0.1"]);
}

#[test]
fn a_broken_file_keeps_its_last_good_objects_until_it_is_repaired() {
    let mut scenario = Scenario::begin(&[("a.yaml", &format!("{}---\n{}", policy("a"), policy("b")))]);
    scenario.write("a.yaml", &format!("{}---\n{}---\nbroken: [\n", other_policy("a"), policy("b")));
    scenario.until_problems(&["a.yaml:11 (document 3): "]);
    assert!(
        scenario.problems[0].to_string().ends_with("stay in force, and nothing that was changed since is")
    );
    let ProblemLocation::File { document, line, .. } = scenario.problems[0].location else {
        panic!("no file")
    };
    assert_eq!((document, line), (3, Some(11)));
    assert_eq!(
        scenario.objects(),
        ["web/a with 0 rules", "web/b with 0 rules"],
        "not even the good half of it counts"
    );
    scenario.write("a.yaml", &other_policy("a"));
    scenario.until(&["web/a with 1 rules"]);
    scenario.until_problems(&[]);
}

#[test]
fn the_understood_objects_of_a_file_that_never_was_good_are_in_force() {
    let mut scenario =
        Scenario::begin(&[("a.yaml", &format!("{}---\nbroken: [\n---\n{}", policy("a"), policy("b")))]);
    assert_eq!(scenario.objects(), ["web/a with 0 rules", "web/b with 0 rules"]);
    scenario.until_problems(&["a.yaml:6 (document 2)"]);
    assert!(scenario.problems[0].effect.starts_with("it is not in force: "), "{:?}", scenario.problems);
}

#[test]
fn an_unknown_version_or_missing_name_breaks_the_file_as_a_syntax_error_does() {
    let mut scenario = Scenario::begin(&[("a.yaml", &policy("a"))]);
    for (broken, said) in [
        (
            policy("a").replace("networking.k8s.io/v1", "networking.k8s.io/v2"),
            "a.yaml:1: NetworkPolicy web/a: apiVersion",
        ),
        (pod("a", "10.0.0.1").replace("name: a, ", ""), "a.yaml:3: Pod: metadata: there is no name"),
        (policy("a").replace("web", "Web"), "a.yaml:3: NetworkPolicy Web/a: metadata.namespace: \"Web\""),
        ("metadata: {name: a}\n".into(), "a.yaml:1: the object has no kind"),
        ("just text\n".into(), "a.yaml:1: this is not an object"),
    ] {
        scenario.write("a.yaml", &broken);
        scenario.until_problems(&[said]);
        assert_eq!(scenario.objects(), ["web/a with 0 rules"]);
    }
    fs::write(scenario.path("a.yaml"), b"\n\n\xff").expect("a file");
    scenario.until_problems(&["a.yaml:3: the text is not valid UTF-8", "a.yaml:3: this is not an object"]);
    assert_eq!(scenario.objects(), ["web/a with 0 rules"]);
}

#[test]
fn a_file_that_is_emptied_and_written_again_is_never_empty() {
    use std::io::Write;
    let mut scenario = Scenario::begin(&[("a.yaml", &policy("a"))]);
    // A slow program truncates the file, is interrupted, and then writes it.
    let text = format!("{}---\n{}", other_policy("a"), policy("b"));
    let mut file = fs::File::create(scenario.path("a.yaml")).expect("a file");
    std::thread::sleep(Duration::from_millis(15));
    file.write_all(text.as_bytes()).expect("written");
    drop(file);
    scenario.until(&["web/a with 1 rules", "web/b with 0 rules"]);
    assert_eq!(scenario.gone, Vec::<String>::new());
    // If it stays empty, its objects are gone.
    scenario.write("a.yaml", "");
    scenario.until(&[]);
}

#[test]
fn of_an_object_in_two_files_the_last_file_counts() {
    let mut scenario = Scenario::begin(&[("a.yaml", &policy("p")), ("b.yaml", &other_policy("p"))]);
    assert_eq!(scenario.objects(), ["web/p with 1 rules"]);
    scenario.until_problems(&["a.yaml:1: NetworkPolicy web/p: the same object is in "]);
    fs::remove_file(scenario.path("b.yaml")).expect("removed");
    scenario.until(&["web/p with 0 rules"]);
    scenario.until_problems(&[]);
    assert_eq!(scenario.gone, Vec::<String>::new(), "the other one is in the same update");
    scenario.write("0.yaml", &other_policy("p"));
    scenario.until_problems(&["0.yaml:1: NetworkPolicy web/p: the same object is in "]);
    assert_eq!(scenario.objects(), ["web/p with 0 rules"]);
}

#[test]
fn of_a_duplicate_object_in_a_file_the_later_one_counts() {
    let mut scenario = Scenario::begin(&[("a.yaml", &format!("{}---\n{}", policy("p"), other_policy("p")))]);
    assert_eq!(scenario.objects(), ["web/p with 1 rules"]);
    scenario.until_problems(&[
        "a.yaml:1: NetworkPolicy web/p: the same object comes again in document 2 of this file",
    ]);
}

#[test]
fn lists_hold_objects_and_lists() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: PodList\n  items:\n\
                \x20 - metadata: {name: typed}\n    status: {podIP: 10.0.0.1}\n- kind: Secret\n  apiVersion: v1\n\
                - apiVersion: v1\n  kind: Pod\n  metadata: {name: plain}\n  status: {podIP: x}\n";
    let json = r#"{"apiVersion":"v1","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"early"}}],"kind":"List"}"#;
    let mut scenario = Scenario::begin(&[("a.yaml", list), ("b.json", json)]);
    assert_eq!(scenario.objects(), ["default/early at ", "default/plain at ", "default/typed at 10.0.0.1"]);
    scenario.until_problems(&["a.yaml:14: Pod default/plain: status.podIP: \"x\" is not an IP address"]);
}

#[test]
fn a_namespace_known_by_name_is_replaced_by_its_object() {
    let mut scenario = Scenario::begin(&[("pod.yaml", &pod("p", "10.0.0.1"))]);
    scenario.write("ns.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: web, labels: {team: x}}\n");
    while scenario.known.namespaces["web"].labels.value("team").is_none() {
        let update = scenario.updates.recv_timeout(TIMEOUT).expect("the namespace's labels");
        scenario.apply(update);
    }
    fs::remove_file(scenario.path("pod.yaml")).expect("removed");
    scenario.until(&[]);
    assert_eq!(scenario.known.namespaces.len(), 1, "its object still exists");
    assert_eq!(scenario.gone, ["Pod web/p"]);
}

#[test]
fn a_missing_folder_keeps_everything_in_force_until_it_exists_again() {
    let mut scenario = Scenario::begin(&[]);
    fs::create_dir(scenario.path("root")).expect("a folder");
    scenario.write("root/a.yaml", &policy("a"));
    let (send, updates) = channel();
    let (folder, first) =
        Folder::read(scenario.path("root"), policy::Budget::default()).expect("a readable folder");
    scenario.watch = Some(folder.watch(move |update| drop(send.send(update))).expect("a watch"));
    scenario.updates = updates;
    scenario.apply(first);
    scenario.rename("root", "elsewhere");
    scenario.until_problems(&["root: the folder can't be read"]);
    assert_eq!(scenario.objects(), ["web/a with 0 rules"]);
    fs::create_dir(scenario.path("root")).expect("a folder");
    scenario.write("root/a.yaml", &other_policy("a"));
    scenario.until(&["web/a with 1 rules"]);
    scenario.until_problems(&[]);
    scenario.write("root/a.yaml", &policy("a"));
    scenario.until(&["web/a with 0 rules"]);
}

#[test]
fn a_special_file_is_reported_and_not_read() {
    let mut scenario = Scenario::begin(&[("a.yaml", &policy("a"))]);
    let made =
        std::process::Command::new("mkfifo").arg(scenario.path("pipe.yaml")).status().expect("mkfifo runs");
    assert!(made.success());
    scenario.until_problems(&["pipe.yaml: this is not a regular file; nothing of it is in force"]);
    symlink("nowhere", scenario.path("dangling.yaml")).expect("a link");
    symlink(".", scenario.path("loop")).expect("a link");
    scenario.write("b.yaml", &policy("b"));
    scenario.until(&["web/a with 0 rules", "web/b with 0 rules"]);
    assert_eq!(scenario.problems.len(), 1);
}

#[test]
fn dropping_the_watch_stops_it() {
    let mut scenario = Scenario::begin(&[("a.yaml", &policy("a"))]);
    drop(scenario.watch.take());
    scenario.write("a.yaml", &other_policy("a"));
    assert!(
        scenario
            .updates
            .recv_timeout(TIMEOUT)
            .is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Disconnected)
    );
}

#[test]
fn a_missing_folder_is_an_error_with_its_cause() {
    let error =
        Folder::read(Path::new("does/not/exist"), policy::Budget::default()).expect_err("not a folder");
    let text = error.to_string();
    assert!(text.starts_with("the folder does/not/exist can't be read; name an existing folder"), "{text}");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(!text.contains(&cause) && cause.starts_with("No such file or directory"), "{text}: {cause}");
}

#[test]
fn a_broken_file_is_one_line_of_the_log() {
    #[derive(Clone, Default)]
    struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("the log").write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("a.yaml"), format!("{}---\nkind: [\n", policy("a"))).expect("a file");
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n";
    fs::write(dir.path().join("n.yaml"), namespace).expect("a file");
    tracing::subscriber::with_default(subscriber, || {
        let (mut folder, first) =
            Folder::read(dir.path(), policy::Budget::default()).expect("a readable folder");
        first.problems.iter().for_each(Problem::log);
        folder.look(&dir.path().join("a.yaml"), Trust::AsItIs);
        assert_eq!(folder.files.update(&folder.root), None, "broken as before");
    });
    let log = String::from_utf8(log.0.lock().expect("the log").clone()).expect("text");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 1, "{log}");
    let line: serde_json::Value = serde_json::from_str(lines[0]).expect("JSON");
    assert_eq!(line["level"], "WARN");
    let fields = &line["fields"];
    assert_eq!(fields["file"], dir.path().join("a.yaml").display().to_string());
    assert_eq!((&fields["document"], &fields["line"]), (&2.into(), &6.into()));
    assert_eq!(
        (&fields["error"], &fields["effect"]),
        (
            &"unclosed bracket '['".into(),
            &"it is not in force: if it is a NetworkPolicy, pods that it should isolate may be open".into()
        )
    );
}
