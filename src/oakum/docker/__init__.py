# SPDX-License-Identifier: Apache-2.0
"""The dockershim: the backend's Protocols over a Docker Engine, whose objects and labels are the only state of ours.

Never imports the native engine's store or shims; what it shares with the engine are pure functions.
"""
