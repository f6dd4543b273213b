//! The Kubernetes API as a source, against an API server that does what real ones do on bad days: whatever happens, the consumer
//! ends up with what the API server holds, and is never told anything twice.

mod follower;
mod scenarios;
mod server;
