export function kernelName(mangled: string): string;
export function faultsOfPtx(text: string): string[];
export function faultsOfSass(text: string): string[];
