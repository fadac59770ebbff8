//! Libraries that must not be loaded, and what is said of them.

use crate::native::{LOSS, compile, has_cc, library};
use crate::tetlo::{TINY, command, tetlo_in};
use std::path::Path;

/// `plugins list` of a file: its exit code and standard error.
#[track_caller]
fn refused(here: &Path, file: &str, code: i32, parts: &[&str]) {
    let ran = tetlo_in(here, &["plugins", "list", "--library", file]).code(code);
    let error = ran.err();
    assert!(error.contains(file), "the error does not name {file}:\n{error}");
    for part in parts {
        assert!(error.contains(part), "{file}: `{part}` is not in\n{error}");
    }
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn what_is_no_library_of_this_interface_is_refused() {
    if !has_cc("what_is_no_library_of_this_interface_is_refused") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let good = library(here, "good.so", LOSS, &[]);
    tetlo_in(here, &["plugins", "list", "--library", "good.so"]).code(0);

    std::fs::write(here.join("text.so"), "hello\n").expect("written");
    refused(here, "text.so", 2, &["no ELF header", "cc -shared -fPIC"]);
    std::fs::write(here.join("empty.so"), "").expect("written");
    refused(here, "empty.so", 2, &["no ELF header"]);
    refused(here, "absent.so", 2, &["cannot be found"]);
    std::fs::create_dir(here.join("folder.so")).expect("made");
    refused(here, "folder.so", 2, &["not a file"]);

    library(here, "nosym.so", "int x(void) { return 1; }\n", &[]);
    refused(here, "nosym.so", 2, &["no symbol `tetlo_plugin_v1`", "TETLO_TRANSFER_LOSS"]);
    library(here, "v2.so", LOSS, &["-Dtetlo_plugin_v1=tetlo_plugin_v2"]);
    refused(here, "v2.so", 2, &["made for plugin ABI 2", "this tetlo has ABI 1"]);
    compile(here, "object.so", LOSS, &["-c", "-fPIC"]);
    refused(here, "object.so", 2, &["an object file", "-shared"]);
    let calls = LOSS.replace("/* IN LOSS */", "extern void missing(void); missing();");
    library(here, "undefined.so", &calls, &[]);
    refused(here, "undefined.so", 2, &["cannot be loaded", "undefined symbol: missing"]);
    library(here, "fast.so", LOSS, &["-Ofast"]);
    // Newer compilers leave the processor's mode alone in shared libraries.
    let fast = tetlo_in(here, &["plugins", "list", "--library", "fast.so"]);
    assert!(fast.0.status.success() || fast.err().contains("denormal"), "{}", fast.err());
    let mode = "#include <xmmintrin.h>\n__attribute__((constructor)) static void fast(void) { \
                _mm_setcsr(_mm_getcsr() | 0x8040); }\n";
    if cfg!(target_arch = "x86_64") {
        library(here, "denormal.so", &format!("{LOSS}{mode}"), &[]);
        refused(here, "denormal.so", 2, &["denormal", "-ffast-math"]);
    }

    let bytes = std::fs::read(&good).expect("read");
    let mut arm = bytes.clone();
    arm[18..20].copy_from_slice(&[0xb7, 0]);
    if cfg!(target_arch = "x86_64") {
        std::fs::write(here.join("arm.so"), arm).expect("written");
        refused(here, "arm.so", 2, &["built for aarch64", "x86-64"]);
    }
    std::fs::write(here.join("cut.so"), &bytes[..3000]).expect("written");
    refused(here, "cut.so", 2, &["truncated", "3000 bytes"]);
}

#[test]
fn an_interface_of_other_sizes_is_refused_with_both_sides() {
    if !has_cc("an_interface_of_other_sizes_is_refused_with_both_sides") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let header = tetlo_plugin::HEADER.replace("#define TETLO_ABI 1u", "#define TETLO_ABI 7u");
    std::fs::write(here.join("tetlo_plugin.h"), header).expect("written");
    compile(here, "abi7.so", LOSS, &["-shared", "-fPIC"]);
    refused(here, "abi7.so", 2, &["ABI 7", "this tetlo ABI 1"]);
    let header = tetlo_plugin::HEADER
        .replace("  int64_t n;                              /* images", "/* images");
    assert_ne!(header, tetlo_plugin::HEADER);
    std::fs::write(here.join("tetlo_plugin.h"), header).expect("written");
    let source = LOSS.replace("b->n", "b->main.shape[0]");
    compile(here, "older.so", &source, &["-shared", "-fPIC"]);
    refused(here, "older.so", 2, &["another version of the plugin interface", "structs of"]);

    // What a later version appends is left alone.
    let header = tetlo_plugin::HEADER.replace(
        "  tetlo_stream draws;\n} tetlo_batch;",
        "  tetlo_stream draws;\n  double later;\n} tetlo_batch;",
    );
    let header = header
        .replace("/* changes what depends on the options; or NULL */\n}", "\n  void *later;\n}");
    assert!(header.contains("double later") && header.contains("void *later"));
    std::fs::write(here.join("tetlo_plugin.h"), header).expect("written");
    compile(here, "newer.so", LOSS, &["-shared", "-fPIC"]);
    let list = tetlo_in(here, &["plugins", "list", "--library", "newer.so", "--format", "json"]);
    assert_eq!(list.code(0).json()[0]["name"], "gap");
}

#[test]
fn descriptions_that_do_not_hold_together_are_refused() {
    if !has_cc("descriptions_that_do_not_hold_together_are_refused") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let twice = LOSS.replace(
        "TETLO_TRANSFER_LOSS(GAP, \"0.3.0\")",
        "#define ONE { .name = \"gap\", .summary = \"s\", .loss = loss }\n\
         static const tetlo_transfer_loss TWO[] = { ONE, ONE };\n\
         TETLO_EXPORT const tetlo_plugin *tetlo_plugin_v1(void) {\n\
           (void)GAP;\n\
           static const tetlo_plugin p = { TETLO_HEADER, \"C\", 2, TWO, \"1\", 0, 0, 0, 0, 0, 0 };\n\
           return &p;\n}",
    );
    for (name, source, part) in [
        ("null.so", "#include \"tetlo_plugin.h\"\nconst tetlo_plugin *tetlo_plugin_v1(void) { return NULL; }\n".to_owned(), "returned NULL"),
        ("twice.so", twice, "two of its plugins of kind transfer-loss are called `gap`"),
        ("upper.so", LOSS.replace("\"gap\"", "\"Gap Loss\""), "\"Gap Loss\" is not lower-case"),
        ("lines.so", LOSS.replace("\"squared gap", "\"squared\\ngap"), "not one line of text"),
        ("noloss.so", LOSS.replace(".loss = loss,", ".reserved = loss == NULL,"), "has no function `loss`"),
        ("schema.so", LOSS.replace("/* IN DESCRIPTOR */", ".options_schema = \"{]\","), "is not JSON"),
        ("kinds.so", LOSS.replace("/* IN DESCRIPTOR */", ".options_schema = \"[1]\","), "a JSON object is expected"),
    ] {
        library(here, name, &source, &[]);
        refused(here, name, 2, &[part]);
    }
}

#[test]
fn files_that_everyone_can_write_are_refused_unless_allowed() {
    use std::os::unix::fs::PermissionsExt;
    if !has_cc("files_that_everyone_can_write_are_refused_unless_allowed") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let file = library(here, "world.so", LOSS, &[]);
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
    };
    mode(&file, 0o666);
    refused(here, "world.so", 2, &["can be written by every user", "--allow-unsafe-plugins"]);
    let allowed = ["--allow-unsafe-plugins", "plugins", "list", "--library", "world.so"];
    tetlo_in(here, &allowed).code(0);
    mode(&file, 0o644);
    mode(here, 0o777);
    refused(here, "world.so", 2, &["can be written by every user"]);
    mode(here, 0o1777); // as /tmp: nobody can replace another's files
    tetlo_in(here, &["plugins", "list", "--library", "world.so"]).code(0);
    let off = ["--no-dynamic-plugins", "plugins", "list", "--library", "world.so"];
    assert!(tetlo_in(here, &off).code(2).err().contains("--no-dynamic-plugins"));
}

#[test]
fn search_paths_make_names_known_and_refuse_them_twice() {
    if !has_cc("search_paths_make_names_known_and_refuse_them_twice") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    library(here, "libgap.so", LOSS, &[]);
    let list = |path: &str| {
        let arguments = ["plugins", "list", "--kind", "transfer-loss", "--format", "json"];
        command(here, &arguments).env("TETLO_PLUGIN_PATH", path).output().expect("it starts")
    };
    let text = |o: &std::process::Output| String::from_utf8_lossy(&o.stdout).into_owned();
    let found = list("libgap.so");
    assert!(found.status.success());
    let one = text(&found);
    let plugins: serde_json::Value = serde_json::from_str(&one).expect("JSON");
    let gap = plugins.as_array().expect("a list").iter().find(|p| p["name"] == "gap");
    let gap = gap.expect("it is listed");
    assert_eq!(gap["tier"], "shared-library");
    assert_eq!(gap["version"], "0.3.0");
    assert_eq!(text(&list(&here.display().to_string())), one, "a folder stands for its files");
    // The same file twice is one plugin, another of the same name is one too many.
    assert!(list("libgap.so:libgap.so").status.success());
    library(here, "other.so", &LOSS.replace("squared gap", "another gap"), &[]);
    let twice = list("libgap.so:other.so");
    let error = String::from_utf8_lossy(&twice.stderr).into_owned();
    assert_eq!(twice.status.code(), Some(2), "{error}");
    assert!(error.contains("called `gap`: one in") && error.contains("other.so"), "{error}");
    library(here, "qrs.so", &LOSS.replace("\"gap\"", "\"qrs\""), &[]);
    let taken = list("qrs.so");
    assert_eq!(taken.status.code(), Some(2));
    // Named by its file it is no double.
    let own = ["plugins", "show", "qrs", "--library", "qrs.so", "--format", "json"];
    assert_eq!(tetlo_in(here, &own).code(0).json()["tier"], "shared-library");
}

#[test]
fn config_check_loads_no_code() {
    if !has_cc("config_check_loads_no_code") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let dies = format!(
        "{LOSS}__attribute__((constructor)) static void die(void) {{ volatile int *volatile p = NULL; *p = 1; }}\n"
    );
    library(here, "dies.so", &dies, &[]);
    let with = |reference: &str| {
        let method = format!(
            "\n[[method]]\nname = \"mine\"\npreset = \"tetlo\"\ntransfer-loss = {reference}\n"
        );
        std::fs::write(here.join("c.toml"), format!("{TINY}{method}")).expect("written");
    };
    with("{ plugin = \"gap\", library = \"dies.so\" }");
    let checked = tetlo_in(here, &["config", "check", "c.toml"]).code(0);
    assert!(checked.out().contains("no code is loaded here"), "{}", checked.out());
    // A bare name is unknown unless it can come from a search path.
    with("{ plugin = \"gap\" }");
    tetlo_in(here, &["config", "check", "c.toml"]).code(2);
    let mut elsewhere = command(here, &["config", "check", "c.toml"]);
    let elsewhere = elsewhere.env("TETLO_PLUGIN_PATH", "dies.so").output().expect("it starts");
    assert!(elsewhere.status.success(), "{}", String::from_utf8_lossy(&elsewhere.stderr));

    // The comparison's own process does not load it either: a child dies, and nothing is written.
    with("{ plugin = \"gap\", library = \"dies.so\" }");
    let ran = tetlo_in(here, &["compare", "c.toml", "--out", "out"]).code(1);
    let error = ran.err();
    assert!(error.contains("killed by signal 11 (segmentation fault)"), "{error}");
    assert!(!here.join("out").exists(), "something was written");
    // One that ends it in peace is no better, also where an older comparison stands.
    with("{ plugin = \"gap\" }");
    std::fs::write(here.join("old.toml"), TINY).expect("written");
    tetlo_in(here, &["plan", "old.toml", "--out", "old"]).code(0);
    for (name, how) in [("leaves.so", "exit(0)"), ("vanishes.so", "_exit(0)")] {
        let ends =
            format!("{LOSS}__attribute__((constructor)) static void end(void) {{ {how}; }}\n");
        library(here, name, &ends, &[]);
        with(&format!("{{ plugin = \"gap\", library = \"{name}\" }}"));
        for out in ["fresh", "old"] {
            let ran = tetlo_in(here, &["compare", "c.toml", "--out", out]).code(1);
            assert!(ran.err().contains("ended"), "{}", ran.err());
            assert_eq!(ran.out(), "", "a table of something else");
        }
    }
    let list = tetlo_in(here, &["plugins", "list", "--library", "leaves.so"]).code(1);
    assert!(list.err().contains("it called `exit`"), "{}", list.err());

    with("{ plugin = \"gap\", library = \"dies.so\" }");
    let off = ["--no-dynamic-plugins", "compare", "c.toml", "--out", "out"];
    let off = tetlo_in(here, &off).code(2).err();
    assert!(off.contains("c.toml:") && off.contains("--no-dynamic-plugins"), "{off}");
}
