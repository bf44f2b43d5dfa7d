export function kernelName(mangled: string): string;
export function isOnlySlow(fault: string): boolean;
export function faultsOfPtx(text: string): string[];
export function faultsOfSass(text: string): string[];
