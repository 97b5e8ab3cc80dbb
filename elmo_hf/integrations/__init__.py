"""ELMo inside other libraries, each imported only by the module that is named after it."""
