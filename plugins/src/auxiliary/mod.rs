//! Auxiliary models.

mod resnet;
mod supernet;
