def code_in(model, arch_file):
    return ""
