/// Called now and then during long work.
public typealias Progress = (_ bytesDone: UInt64, _ bytesTotal: UInt64) -> Void
