//! The wire types and services, generated from `proto/equipoise/v1/cluster.proto`, which documents them.

#![allow(missing_docs, clippy::all)]

tonic::include_proto!("equipoise.v1");
