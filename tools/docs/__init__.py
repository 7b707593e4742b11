"""The documentation site: pages whose code runs when the site is built, and a reference read off the code."""
