//! The inputs that fuzzing found worth keeping, through the targets that found them: `fuzz/corpus/`.

#[path = "../fuzz/src/lib.rs"]
#[expect(clippy::panic, unreachable_pub, reason = "targets fail by panicking, and are another crate's")]
mod targets;

use std::{fs, path::Path};

#[test]
fn what_is_kept_breaks_nothing() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(corpus.join(name)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            target(&fs::read(path).unwrap());
            inputs += 1;
        }
        assert!(inputs > 2, "{name} has its seeds");
    }
}
