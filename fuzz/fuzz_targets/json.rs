//! Both parsers of the json form: any bytes end with a document or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use secret_files::sops::store::{Format, Indents};
use secret_files::sops::tree::Tree;

fuzz_target!(|source: &[u8]| {
    let store = Format::Json.store();
    if let Ok(document) = store.parse(source) {
        let _ = store.emit_tree(&Tree::of(&document), None, Indents::default());
    }
    if let Ok(sealed) = store.parse_sealed(source.to_vec()) {
        let _ = store.emit_tree(
            &Tree::of_sealed(&sealed),
            Some(sealed.metadata.node()),
            Indents::default(),
        );
    }
});
