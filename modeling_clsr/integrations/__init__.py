"""CLSR in other libraries; each module needs its library, which is an extra."""
