"""Gives every test the same four virtual devices and a quiet TensorFlow."""

import os

# Before the first import of either library: both read the environment once.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import jax

jax.config.update("jax_num_cpu_devices", 4)
