# SPDX-License-Identifier: Apache-2.0
"""Seccomp: the default profile as data, profiles from files, and compilation to BPF with a cache on disk."""
