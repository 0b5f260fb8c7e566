//! The gRPC services, thin: read the request, call the app, write the answer.

mod account;
mod admin;
mod provisioner;

pub use account::AccountServiceImpl;
pub use admin::AdminServiceImpl;
pub use provisioner::ProvisionerServiceImpl;
