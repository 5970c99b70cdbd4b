import Glibc

/// The machine's limit for many threads at once, which share syncs. A thread that arrives while no write is in flight
/// writes and syncs for all that have arrived by then; meanwhile the next group gathers, and one of its threads continues.
///
/// Sendable though it holds pointers: all state is touched only under `mutex`, except for the group that was taken, which
/// only the thread that took it touches until it returns it under `mutex`. The pthread objects live at fixed addresses
/// until `deinit`, which runs only when no thread holds a reference.
final class RawGroup: @unchecked Sendable {
  private let file: RawFile
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  /// Groups take turns with these: at most two are waited for at a time.
  private let conditions = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 2)
  private let buffers: [UnsafeMutableRawBufferPointer]
  /// Bytes in the buffer of the group that gathers.
  private var gathered = 0
  /// The group that gathers, and the last one that is on disk.
  private var gathering = 0
  private var synced = -1
  private var isSyncing = false
  private var failure: BenchError?

  init(_ file: RawFile, groupBytes: Int) {
    self.file = file
    pthread_mutex_init(mutex, nil)
    for index in 0..<2 { pthread_cond_init(conditions + index, nil) }
    buffers = (0..<2).map { _ in .allocate(byteCount: groupBytes, alignment: 4096) }
  }

  deinit {
    for index in 0..<2 { pthread_cond_destroy(conditions + index) }
    pthread_mutex_destroy(mutex)
    conditions.deallocate()
    mutex.deallocate()
    for buffer in buffers { buffer.deallocate() }
  }

  /// Returns once the frame is on disk. The caller ensures that a group's frames never take more than `groupBytes`.
  func append(_ frame: [UInt8]) throws {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    let group = gathering
    let place = UnsafeMutableRawBufferPointer(rebasing: buffers[group % 2][gathered..<gathered + frame.count])
    place.copyBytes(from: frame)
    gathered += frame.count
    while synced < group, failure == nil {
      if isSyncing || gathering != group {
        pthread_cond_wait(conditions + group % 2, mutex)
      } else {
        lead(group)
      }
    }
    if let failure { throw failure }
  }

  /// Called and returns with the lock held; releases it in between.
  private func lead(_ group: Int) {
    let bytes = UnsafeRawBufferPointer(rebasing: buffers[group % 2][..<gathered])
    isSyncing = true
    gathering += 1
    gathered = 0
    pthread_mutex_unlock(mutex)
    let result = Result { () throws -> Void in
      try file.append(bytes)
      try file.sync()
    }
    pthread_mutex_lock(mutex)
    isSyncing = false
    switch result {
    case .success: synced = group
    case .failure(let error): failure = error as? BenchError ?? BenchError("\(error)")
    }
    pthread_cond_broadcast(conditions + group % 2)
    if failure != nil { pthread_cond_broadcast(conditions + (group + 1) % 2) }
    // One of the threads that have arrived meanwhile continues.
    if gathered > 0 { pthread_cond_signal(conditions + (group + 1) % 2) }
  }
}
