//! The one macro line: a policy type becomes the exports of a component.

use crate::{Allocator, App, Board, Param, Params, Tuner};

/// Starts an allocator as the agent does: unknown parameters are refused.
pub fn start_allocator<P: Allocator>(board: &Board, apps: &[App], params: Vec<Param>) -> Result<P, String> {
    let mut params = Params::new(params);
    let policy = P::start(board, apps, &mut params)?;
    params.finish()?;
    Ok(policy)
}

/// Starts a tuner as the agent does: unknown parameters are refused.
pub fn start_tuner<P: Tuner>(board: &Board, app: &App, params: Vec<Param>) -> Result<P, String> {
    let mut params = Params::new(params);
    let policy = P::start(board, app, &mut params)?;
    params.finish()?;
    Ok(policy)
}

/// Makes a type that implements [`Allocator`] the allocator of this component. Empty in native builds.
#[macro_export]
macro_rules! export_allocator {
    ($policy:ty) => {
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "generated: the component ABI")]
        const _: () = {
            use $crate::bindings::allocator as world;
            struct Component;
            $crate::__policy_place!($policy);
            impl world::Guest for Component {
                fn start(
                    board: $crate::Board,
                    apps: Vec<$crate::App>,
                    params: Vec<$crate::Param>,
                ) -> Result<(), String> {
                    let policy = $crate::start_allocator::<$policy>(&board, &apps, params)?;
                    POLICY.with_borrow_mut(|p| *p = Some(policy));
                    Ok(())
                }
                fn apps(apps: Vec<$crate::App>) {
                    with(|p| $crate::Allocator::apps(p, &apps));
                }
                fn limits(opps: Vec<$crate::OppRange>) {
                    with(|p| $crate::Allocator::limits(p, &opps));
                }
                fn decide(seen: $crate::Snapshot) -> $crate::Allocation {
                    with(|p| $crate::Allocator::decide(p, &seen))
                }
            }
    world::export_allocator_bindings!(Component with_types_in world);
        };
    };
}

/// Makes a type that implements [`Tuner`] the tuner of this component. Empty in native builds.
#[macro_export]
macro_rules! export_tuner {
    ($policy:ty) => {
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "generated: the component ABI")]
        const _: () = {
            use $crate::bindings::tuner as world;
            struct Component;
            $crate::__policy_place!($policy);
            impl world::Guest for Component {
                fn start(
                    board: $crate::Board,
                    app: $crate::App,
                    params: Vec<$crate::Param>,
                ) -> Result<(), String> {
                    let policy = $crate::start_tuner::<$policy>(&board, &app, params)?;
                    POLICY.with_borrow_mut(|p| *p = Some(policy));
                    Ok(())
                }
                fn app(app: $crate::App) {
                    with(|p| $crate::Tuner::app(p, &app));
                }
                fn limits(opps: Vec<$crate::OppRange>) {
                    with(|p| $crate::Tuner::limits(p, &opps));
                }
                fn decide(seen: $crate::View) -> $crate::Choice {
                    with(|p| $crate::Tuner::decide(p, &seen))
                }
            }
    world::export_tuner_bindings!(Component with_types_in world);
        };
    };
}

/// The policy's place between calls.
#[doc(hidden)]
#[macro_export]
macro_rules! __policy_place {
    ($policy:ty) => {
        ::std::thread_local! {
            static POLICY: ::std::cell::RefCell<Option<$policy>> = const { ::std::cell::RefCell::new(None) };
        }
        fn with<R>(call: impl FnOnce(&mut $policy) -> R) -> R {
            POLICY
                .with_borrow_mut(|p| call(p.as_mut().expect("the contract: start comes first and succeeds")))
        }
    };
}
