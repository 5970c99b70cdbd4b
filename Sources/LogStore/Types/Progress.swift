/// Called from time to time during long work.
public typealias Progress = (_ bytesDone: UInt64, _ bytesTotal: UInt64) -> Void
