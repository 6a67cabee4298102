//! The wire types and services, generated from `proto/equipoise/v1/*.proto`, which document them.

#![allow(missing_docs, clippy::all)]

tonic::include_proto!("equipoise.v1");
