# SPDX-License-Identifier: Apache-2.0
"""Between CRI messages and the backend's types, both ways; pure functions, no input or output.

`read_*` takes a message from a client, which is not trusted, and raises InvalidArgument naming the field;
`write_*` makes a message out of our own values and never refuses.
"""
