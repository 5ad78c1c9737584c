//! Generated from `policies/wit/policy.wit`: the contract's types and the functions of its two worlds.
//!
//! The worlds share one set of types. Every field's unit stands in the WIT and so in the docs here.

/// The upper level.
pub mod allocator {
    wit_bindgen::generate!({
        path: "../wit",
        world: "allocator",
        pub_export_macro: true,
        export_macro_name: "export_allocator_bindings",
        generate_unused_types: true,
        additional_derives: [PartialEq, Eq, Default],
        additional_derives_ignore: ["binds", "freq-unit", "level", "objective", "source"],
    });
}

/// The lower level.
pub mod tuner {
    wit_bindgen::generate!({
        path: "../wit",
        world: "tuner",
        pub_export_macro: true,
        export_macro_name: "export_tuner_bindings",
        with: {
            "tandem:policy/types@0.2.0": crate::bindings::allocator::tandem::policy::types,
            "tandem:policy/host@0.2.0": crate::bindings::allocator::tandem::policy::host,
        },
    });
}
