# SPDX-License-Identifier: Apache-2.0
"""SPDY/3.1 as pure state machines: header blocks, frames, sessions. No input or output here.

Spec: SPDY protocol draft 3.1.
"""
