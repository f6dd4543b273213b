//! Restarts with the state of an earlier run: files that broke, were removed or were emptied in between.

use super::*;

/// Starts an agent's watch of a folder with a state folder that may be written. Returns the first update, and
/// the channel of those that follow.
fn restart(dir: &Path, state: &Path) -> (Update, Receiver<Update>, FolderWatch) {
    let state_dir = StateDir { path: state.to_owned(), node: "n".into() };
    let (send, updates) = channel();
    let (folder, first) = Folder::open(dir, policy::Budget::default(), Some(&state_dir)).expect("a folder");
    folder.state_dir().expect("a state").1.set(true);
    let watch = folder.watch(move |update| drop(send.send(update))).expect("a watch");
    (first, updates, watch)
}

fn policies(update: &Update) -> Vec<String> {
    let mut known = Inventory::default();
    update.changes.iter().cloned().for_each(|change| known.apply(change));
    known
        .policies
        .values()
        .map(|policy| format!("{} with {} rules", policy.name, policy.ingress.len()))
        .collect()
}

#[test]
fn a_file_that_is_broken_when_the_program_starts_keeps_the_objects_that_it_had() {
    for (scenario, break_it) in broken_files() {
        let (dir, state) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let path = dir.path().join("a.yaml");
        fs::write(&path, other_policy("a")).expect("a file");
        fs::write(dir.path().join("b.yaml"), policy("b")).expect("a file");
        drop(restart(dir.path(), state.path()));
        break_it(&path);
        let (first, updates, _watch) = restart(dir.path(), state.path());
        assert_eq!(policies(&first), ["web/a with 1 rules", "web/b with 0 rules"], "{scenario}");
        assert!(first.restored.is_some(), "{scenario}: {first:?}");
        assert_eq!(first.never_understood, Vec::<PathBuf>::new(), "{scenario}");
        let problem = first.problems.iter().find(|problem| problem.to_string().contains("a.yaml"));
        let effect = problem.map(|problem| &*problem.effect).unwrap_or_default();
        assert!(effect.contains("as the state on disk has them"), "{scenario}: {:?}", first.problems);
        // When it is repaired, its content counts again.
        if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) }.expect("removed");
        fs::write(&path, policy("a")).expect("a file");
        let end = Instant::now() + TIMEOUT;
        loop {
            let update =
                updates.recv_timeout(end.saturating_duration_since(Instant::now())).expect("an update");
            if update.restored.is_none()
                && !update.problems.iter().any(|problem| problem.to_string().contains("a.yaml"))
            {
                break;
            }
        }
    }
}

/// Breaks the file at this path.
type Break = fn(&Path);

/// The ways in which a manifest breaks, and the function that breaks it.
fn broken_files() -> [(&'static str, Break); 8] {
    [
        ("cut off", |path| {
            fs::write(path, "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {na")
                .expect("a file")
        }),
        ("no YAML", |path| fs::write(path, "kind: [\n").expect("a file")),
        ("no text", |path| fs::write(path, b"\x00\xff\xfe\x00").expect("a file")),
        ("text that is not an object", |path| fs::write(path, "hello\n").expect("a file")),
        ("another version", |path| {
            fs::write(path, other_policy("a").replace("k8s.io/v1", "k8s.io/v2")).expect("a file");
        }),
        ("no namespace that can be", |path| {
            fs::write(path, policy("a").replace("web", "Web")).expect("a file")
        }),
        ("conflict markers", |path| {
            fs::write(
                path,
                format!("<<<<<<< HEAD\n{}=======\n{}>>>>>>> b\n", policy("a"), other_policy("a")),
            )
            .expect("a file");
        }),
        ("a named pipe", |path| {
            fs::remove_file(path).expect("removed");
            let status = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo");
            assert!(status.success());
        }),
    ]
}

#[test]
fn without_a_state_a_broken_file_is_one_that_was_never_understood() {
    // A file that never was a manifest may be a chart's values. It is skipped and counted.
    for (scenario, break_it) in
        broken_files().into_iter().filter(|(scenario, _)| *scenario != "text that is not an object")
    {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a.yaml");
        fs::write(&path, policy("a")).expect("a file");
        break_it(&path);
        let (_, first) = Folder::read(dir.path(), policy::Budget::default()).expect("a folder");
        assert_eq!(first.never_understood, [path], "{scenario}");
    }
}

#[test]
fn objects_of_files_that_were_removed_or_emptied_between_runs_are_gone() {
    let (dir, state) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    for name in ["gone", "emptied", "commented", "kept"] {
        fs::write(dir.path().join(format!("{name}.yaml")), policy(name)).expect("a file");
    }
    drop(restart(dir.path(), state.path()));
    fs::remove_file(dir.path().join("gone.yaml")).expect("removed");
    fs::write(dir.path().join("emptied.yaml"), "").expect("a file");
    fs::write(dir.path().join("commented.yaml"), "# nothing\n").expect("a file");
    let (first, updates, _watch) = restart(dir.path(), state.path());
    let mut known = Inventory::default();
    first.changes.into_iter().for_each(|change| known.apply(change));
    let end = Instant::now() + TIMEOUT;
    let mut restored = first.restored;
    while restored.is_some() {
        let update = updates.recv_timeout(end.saturating_duration_since(Instant::now())).expect("an update");
        update.changes.into_iter().for_each(|change| known.apply(change));
        restored = update.restored;
    }
    let names: Vec<String> = known.policies.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["web/kept"]);
}

#[test]
fn a_folder_that_cannot_be_read_at_the_start_has_the_objects_of_the_state() {
    let (dir, state) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let root = dir.path().join("manifests");
    fs::create_dir(&root).expect("a folder");
    fs::write(root.join("a.yaml"), policy("a")).expect("a file");
    drop(restart(&root, state.path()));
    fs::rename(&root, dir.path().join("away")).expect("a rename");
    let (first, updates, _watch) = restart(&root, state.path());
    assert_eq!(policies(&first), ["web/a with 0 rules"]);
    assert!(first.restored.is_some() && !first.problems.is_empty(), "{first:?}");
    fs::rename(dir.path().join("away"), &root).expect("a rename");
    let update = updates.recv_timeout(TIMEOUT).expect("an update");
    assert_eq!((update.restored, update.changes), (None, vec![]), "nothing else has changed");
}
