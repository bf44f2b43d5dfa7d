export const README = 'todo\n';
