export const CHECK_PY = 'print("todo")\n';
