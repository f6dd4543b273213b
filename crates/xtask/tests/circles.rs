//! No import circles between files, or between modules with their children: if two need each other, a third
//! one is missing. The files of a parent and its child count like any two files.
//!
//! A file imports another if one of its `use` declarations or paths leads through a module of that file. The
//! declaration of a child (`mod x;`) is no import. Neither is its re-export (`pub use`), unless the parent or
//! one of its descendants uses the name. Code under `#[cfg(test)]` is exempt. The bodies of macros are not
//! examined.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use syn::visit::Visit;
use syn::{Attribute, File, ImplItem, Item, ItemUse, Meta, UseTree, Visibility};

/// A module's path within its crate: empty for the crate itself.
type ModulePath = Vec<String>;

/// One program, library or test: its modules, each with the file that contains it.
#[derive(Default)]
struct Crate {
    modules: BTreeMap<ModulePath, Module>,
}

struct Module {
    file: String,
    /// The items of a module in a file of its own; `None` if it is within another module's file.
    content: Option<File>,
    /// The names that it re-exports, each with the path of the original.
    exports: BTreeMap<String, Vec<String>>,
}

impl Crate {
    /// Reads the file of a module, and those of its children.
    fn read(&mut self, root: &Path, file: &Path, module: ModulePath, folder: &Path) {
        let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        let content = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        let name = file.to_str().expect("paths are UTF-8").to_owned();
        self.children(root, &content.items, &module, folder, &name);
        let exports = exports(&content.items);
        self.modules.insert(module, Module { file: name, content: Some(content), exports });
    }

    fn children(&mut self, root: &Path, items: &[Item], module: &ModulePath, folder: &Path, file: &str) {
        for item in items {
            let Item::Mod(item) = item else { continue };
            if is_for_tests(&item.attrs) {
                continue;
            }
            let name = item.ident.to_string();
            let child = [module.as_slice(), std::slice::from_ref(&name)].concat();
            if let Some((_, items)) = &item.content {
                self.children(root, items, &child, &folder.join(&name), file);
                let exports = exports(items);
                self.modules.insert(child, Module { file: file.to_owned(), content: None, exports });
                continue;
            }
            let own = folder.join(format!("{name}.rs"));
            let own = if root.join(&own).exists() { own } else { folder.join(&name).join("mod.rs") };
            self.read(root, &own, child, &folder.join(&name));
        }
    }

    /// The modules on which a path depends that occurs in `module`: the one that it names and, if that one
    /// re-exports the item, the next, up to the original's.
    fn imported(&self, module: &ModulePath, path: &[String]) -> Vec<ModulePath> {
        let mut imported = Vec::new();
        let (mut module, mut path) = (module.clone(), path.to_vec());
        // A chain of re-exports is no longer than this.
        for _ in 0..8 {
            let Some((target, rest)) = self.resolve(&module, &path) else { break };
            imported.push(target.clone());
            let Some(original) = rest.first().and_then(|item| self.modules[&target].exports.get(item)) else {
                break;
            };
            (module, path) = (target, [original, &rest[1..]].concat());
        }
        imported
    }

    /// The module that a path names, and the rest of the path; `None` if the path names something of another
    /// crate or of the same module.
    fn resolve(&self, module: &ModulePath, path: &[String]) -> Option<(ModulePath, Vec<String>)> {
        let mut target = module.clone();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => (target, rest) = (ModulePath::new(), &rest[1..]),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    target.pop()?;
                    rest = &rest[1..];
                }
            }
            child if !self.modules.contains_key(&[target.as_slice(), &[child.to_owned()]].concat()) => {
                return None;
            }
            _ => {}
        }
        while let Some(segment) = rest.first() {
            let child = [target.as_slice(), std::slice::from_ref(segment)].concat();
            if !self.modules.contains_key(&child) {
                break;
            }
            (target, rest) = (child, &rest[1..]);
        }
        self.modules.contains_key(&target).then(|| (target, rest.to_vec()))
    }
}

/// The names that items re-export, each with the path of the original.
fn exports(items: &[Item]) -> BTreeMap<String, Vec<String>> {
    let mut exports = BTreeMap::new();
    for item in items {
        if let Item::Use(item) = item
            && !matches!(item.vis, Visibility::Inherited)
        {
            for (path, name) in paths(&item.tree) {
                exports.insert(name, path);
            }
        }
    }
    exports
}

/// The paths of a `use` declaration, each with the name that it gets.
fn paths(tree: &UseTree) -> Vec<(Vec<String>, String)> {
    let single = |name: String, renamed: String| vec![(vec![name], renamed)];
    match tree {
        UseTree::Path(path) => {
            let prefix = |(rest, name): (Vec<String>, String)| match rest.as_slice() {
                // `use a::{self}`
                [only] if only == "self" => (vec![path.ident.to_string()], path.ident.to_string()),
                _ => ([vec![path.ident.to_string()], rest].concat(), name),
            };
            paths(&path.tree).into_iter().map(prefix).collect()
        }
        UseTree::Name(name) => single(name.ident.to_string(), name.ident.to_string()),
        UseTree::Rename(name) => single(name.ident.to_string(), name.rename.to_string()),
        UseTree::Glob(_) => single("*".to_owned(), "*".to_owned()),
        UseTree::Group(group) => group.items.iter().flat_map(paths).collect(),
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => {
            let condition = list.tokens.to_string();
            list.path.is_ident("cfg") && (condition == "test" || condition.starts_with("all (test ,"))
        }
        _ => false,
    })
}

/// Collects the paths that one file imports.
struct Imports {
    module: ModulePath,
    /// Each path, and the module in the file in which it occurs.
    paths: Vec<(ModulePath, Vec<String>)>,
    /// Re-exports of children, by name.
    re_exports: BTreeMap<String, Vec<String>>,
    /// The first segments of all paths in the code.
    used: BTreeSet<String>,
}

impl Imports {
    fn of(module: &ModulePath, content: &File) -> Vec<(ModulePath, Vec<String>)> {
        let (paths, re_exports, used) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        let mut imports = Self { module: module.clone(), paths, re_exports, used };
        imports.visit_file(content);
        let Self { mut paths, re_exports, used, .. } = imports;
        paths.extend(
            re_exports
                .into_iter()
                .filter(|(name, _)| used.contains(name))
                .map(|(_, path)| (module.clone(), path)),
        );
        paths
    }

    fn add(&mut self, item: &ItemUse) {
        let is_export = !matches!(item.vis, Visibility::Inherited);
        for (path, name) in paths(&item.tree) {
            if is_export && !["crate", "super"].contains(&&*path[0]) {
                self.re_exports.insert(name, path);
            } else {
                self.paths.push((self.module.clone(), path));
            }
        }
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Const(item) => &item.attrs,
            Item::Enum(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Static(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            Item::Trait(item) => &item.attrs,
            Item::Type(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if is_for_tests(attributes) {
            return;
        }
        match item {
            Item::Use(item) => self.add(item),
            Item::Mod(item) => {
                self.module.push(item.ident.to_string());
                syn::visit::visit_item_mod(self, item);
                self.module.pop();
            }
            _ => syn::visit::visit_item(self, item),
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        if !matches!(item, ImplItem::Fn(item) if is_for_tests(&item.attrs)) {
            syn::visit::visit_impl_item(self, item);
        }
    }

    fn visit_visibility(&mut self, _: &'ast Visibility) {
        // `pub(super)` is no import.
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.used.insert(segments[0].clone());
        if segments.len() > 1 {
            self.paths.push((self.module.clone(), segments));
        }
        syn::visit::visit_path(self, path);
    }
}

/// The root files of a package's crates, each with the folder of its modules.
fn roots(files: &BTreeSet<&Path>, package: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut roots = Vec::new();
    let is_code = |file: &&Path| file.extension().is_some_and(|extension| extension == "rs");
    for file in files.iter().filter_map(|file| file.strip_prefix(package).ok()).filter(is_code) {
        let parts: Vec<&str> = file.iter().filter_map(|part| part.to_str()).collect();
        let is_root = matches!(
            parts.as_slice(),
            ["src", "lib.rs" | "main.rs"]
                | ["src", "bin", _]
                | ["tests" | "benches", _]
                | ["tests" | "benches", _, "main.rs"]
                | ["fuzz_targets", _]
                | ["build.rs"]
        );
        if is_root {
            let file = package.join(file);
            let folder = file.parent().expect("a file has one").to_owned();
            roots.push((file, folder));
        }
    }
    roots
}

/// What imports what else, and an example of a path that does.
#[derive(Default)]
struct Graph(BTreeMap<String, BTreeMap<String, String>>);

impl Graph {
    fn add(&mut self, from: &str, to: &str, path: &[String]) {
        if from != to {
            let imported = self.0.entry(from.to_owned()).or_default();
            imported.entry(to.to_owned()).or_insert_with(|| path.join("::"));
        }
    }

    /// All circles, each with its imports.
    fn circles(&self) -> Vec<String> {
        let mut found = BTreeMap::new();
        for circle in self.0.keys().filter_map(|start| self.circle(start)) {
            let members: BTreeSet<String> = circle.iter().cloned().collect();
            let import = |pair: &[String]| {
                let path = &self.0[&pair[0]][&pair[1]];
                format!("  {} imports {path} of {}", pair[0], pair[1])
            };
            let imports: Vec<String> = circle.windows(2).map(import).collect();
            found.entry(members).or_insert_with(|| imports.join("\n"));
        }
        found.into_values().collect()
    }

    /// The shortest circle through `start`.
    fn circle(&self, start: &str) -> Option<Vec<String>> {
        let mut previous: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(file) = queue.pop_front() {
            for next in self.0.get(file).into_iter().flat_map(BTreeMap::keys) {
                if next == start {
                    let mut circle = vec![start.to_owned(), file.to_owned()];
                    while circle.last().is_some_and(|last| last != start) {
                        circle.push(previous[&**circle.last().expect("not empty")].to_owned());
                    }
                    circle.reverse();
                    return Some(circle);
                }
                if !previous.contains_key(&**next) {
                    previous.insert(next, file);
                    queue.push_back(next);
                }
            }
        }
        None
    }
}

/// Imports between files, and between siblings: modules with all their children.
#[derive(Default)]
struct Graphs {
    files: Graph,
    siblings: Graph,
}

impl Graphs {
    fn add(&mut self, root: &Path, crate_: &Crate) {
        for (module, Module { file, content, .. }) in &crate_.modules {
            let Some(content) = content else { continue };
            for (at, path) in Imports::of(module, content) {
                let imported = crate_.imported(&at, &path);
                let file_of = |module: &ModulePath| &crate_.modules[module].file;
                // An ancestor's re-export that is used here.
                for pair in imported.windows(2).filter(|pair| at.starts_with(&pair[0])) {
                    self.files.add(file_of(&pair[0]), file_of(&pair[1]), &path);
                }
                for target in imported {
                    self.files.add(file, file_of(&target), &path);
                    let common = at.iter().zip(&target).take_while(|(one, other)| one == other).count();
                    if at.len() > common && target.len() > common {
                        let name = |module: &[String]| format!("{}: {}", root.display(), module.join("::"));
                        self.siblings.add(&name(&at[..=common]), &name(&target[..=common]), &path);
                    }
                }
            }
        }
    }
}

/// The number of imports between files, and all circles.
fn circles(root: &Path, files: &BTreeSet<&Path>) -> (usize, Vec<String>) {
    let mut graphs = Graphs::default();
    let packages = files.iter().filter(|file| file.ends_with("Cargo.toml")).filter_map(|file| file.parent());
    for (file, folder) in packages.flat_map(|package| roots(files, package)) {
        let mut modules = Crate::default();
        modules.read(root, &file, ModulePath::new(), &folder);
        graphs.add(&file, &modules);
    }
    let imports = graphs.files.0.values().map(BTreeMap::len).sum();
    (imports, [graphs.files.circles(), graphs.siblings.circles()].concat())
}

#[test]
fn no_files_and_no_modules_import_each_other() {
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new("git")
        .args(["ls-files", "*.rs", "*Cargo.toml"])
        .current_dir(&root)
        .output()
        .expect("git runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("paths are UTF-8");
    // A file that was moved and is not committed yet is still listed by its previous name.
    let files = text.lines().map(Path::new).filter(|file| root.join(file).exists()).collect();
    let (imports, circles) = circles(&root, &files);
    assert!(imports > 1_000, "only {imports} imports were found");
    assert!(circles.is_empty(), "{} circles:\n{}", circles.len(), circles.join("\n\n"));
}

/// The circles of a library with these files in `src`.
fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut paths = vec![PathBuf::from("Cargo.toml")];
    for (name, text) in files {
        let path = Path::new("src").join(name);
        fs::create_dir_all(folder.path().join(&path).parent().expect("it has one")).expect("created");
        fs::write(folder.path().join(&path), text).expect("written");
        paths.push(path);
    }
    circles(folder.path(), &paths.iter().map(PathBuf::as_path).collect()).1
}

#[test]
fn each_kind_of_circle_is_found() {
    let siblings = [
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "use crate::b::B; pub(crate) struct A;"),
        ("b.rs", "pub(crate) struct B; impl B { fn of() { super::a::A; } }"),
    ];
    assert_eq!(
        circles_of(&siblings)[0],
        "  src/a.rs imports crate::b::B of src/b.rs\n  src/b.rs imports super::a::A of src/a.rs"
    );
    let parent = [("lib.rs", "mod a; use a::A; struct B;"), ("a.rs", "use super::B; pub(crate) struct A;")];
    assert_eq!(circles_of(&parent).len(), 1);
    let re_export = [("lib.rs", "mod a; pub use a::A; fn f(_: A) {} struct B;"), parent[1]];
    assert_eq!(circles_of(&re_export).len(), 1, "the parent uses the name that it re-exports");
    let through_parent = [
        ("lib.rs", "mod a; mod b; pub use a::A; struct C;"),
        ("a.rs", "use super::C; pub struct A;"),
        ("b.rs", "use super::A;"),
    ];
    assert_eq!(circles_of(&through_parent).len(), 1, "a sibling imports through the parent's re-export");
    let modules = [
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "mod one; mod two;"),
        ("a/one.rs", "use crate::b::B;"),
        ("a/two.rs", "pub(crate) struct Two;"),
        ("b.rs", "use crate::a::two::Two; pub(crate) struct B;"),
    ];
    assert_eq!(
        circles_of(&modules),
        ["  src/lib.rs: a imports crate::b::B of src/lib.rs: b\n  \
          src/lib.rs: b imports crate::a::two::Two of src/lib.rs: a"]
    );
}

#[test]
fn declarations_re_exports_and_tests_are_no_imports() {
    let files = [
        ("lib.rs", "mod a; mod b; pub use a::A; struct C;"),
        ("a.rs", "use super::C; pub struct A; #[cfg(test)] mod tests { use crate::b::B; }"),
        ("b.rs", "use crate::a::A; #[cfg(test)] use crate::a; pub(crate) struct B;"),
    ];
    assert_eq!(circles_of(&files), Vec::<String>::new());
}
