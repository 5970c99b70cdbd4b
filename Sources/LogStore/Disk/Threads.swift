import CLinux
import Glibc

/// Decides which thread runs, instead of the operating system: in a simulation, where one seed must give one history. Of
/// the threads that it has started only one runs at a time, until that thread calls one of these methods.
///
/// Everything that blocks goes through ``Mailbox``, ``FileWatch`` or ``Disk/sleep(milliseconds:)``. At each of them, and at
/// every other call of ``Disk``, another thread may run.
protocol Scheduler: AnyObject, Sendable {
  /// Runs `body` as a thread of its own, now or later.
  func start(_ name: String, _ body: @escaping @Sendable () -> Void)
  /// Lets other threads run, or not.
  func pass()
  /// Lets other threads run until a condition holds.
  func wait(until isSo: () -> Bool)
}

/// A queue from many threads to one, which sleeps while the queue is empty.
///
/// With a scheduler, the scheduler decides who runs, and nobody waits for the lock.
///
/// Sendable: `elements` and the flags are touched only between `lock` and `unlock`. The pthread objects have a fixed
/// address until `deinit`, which runs only when no thread holds a reference.
final class Mailbox<Element: Sendable>: @unchecked Sendable {
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let arrival = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
  private var elements: [Element] = []
  private var isWaiting = false
  private var isClosed = false
  private let scheduler: (any Scheduler)?

  init(_ scheduler: (any Scheduler)?) {
    self.scheduler = scheduler
    pthread_mutex_init(mutex, nil)
    // A wait with a timeout ignores changes of the calendar clock.
    var attributes = pthread_condattr_t()
    pthread_condattr_init(&attributes)
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    pthread_cond_init(arrival, &attributes)
    pthread_condattr_destroy(&attributes)
  }

  deinit {
    pthread_cond_destroy(arrival)
    pthread_mutex_destroy(mutex)
    arrival.deallocate()
    mutex.deallocate()
  }

  /// Returns false if the mailbox is closed; then the element was not taken.
  func send(_ element: Element) -> Bool {
    pthread_mutex_lock(mutex)
    let accepted = !isClosed
    if accepted { elements.append(element) }
    let wake = isWaiting && accepted
    if wake { isWaiting = false }
    pthread_mutex_unlock(mutex)
    if wake { pthread_cond_signal(arrival) }
    scheduler?.pass()
    return accepted
  }

  /// Waits until something arrives and moves all of it into `taken`, in order. Returns false once closed and empty.
  func receive(into taken: inout [Element]) -> Bool {
    scheduler?.wait { !elements.isEmpty || isClosed }
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    while elements.isEmpty {
      // With a scheduler this happens only where no thread of the simulation can go on: then every thread ends.
      if isClosed || scheduler != nil { return false }
      isWaiting = true
      pthread_cond_wait(arrival, mutex)
    }
    isWaiting = false
    if taken.isEmpty {
      // Swapped, so that both arrays keep their memory from one group to the next.
      swap(&taken, &elements)
    } else {
      taken.append(contentsOf: elements)
      elements.removeAll(keepingCapacity: true)
    }
    return true
  }

  /// As ``receive(into:)``, with a timeout; returns nil after it. With a scheduler it waits without a timeout.
  func receive(into taken: inout [Element], milliseconds: Int) -> Bool? {
    if scheduler != nil { return receive(into: &taken) }
    var until = timespec()
    clock_gettime(CLOCK_MONOTONIC, &until)
    let nanoseconds = until.tv_nsec + milliseconds % 1000 * 1_000_000
    until.tv_sec += milliseconds / 1000 + nanoseconds / 1_000_000_000
    until.tv_nsec = nanoseconds % 1_000_000_000
    pthread_mutex_lock(mutex)
    while elements.isEmpty, !isClosed {
      isWaiting = true
      if pthread_cond_timedwait(arrival, mutex, &until) == ETIMEDOUT, elements.isEmpty, !isClosed {
        isWaiting = false
        pthread_mutex_unlock(mutex)
        return nil
      }
    }
    pthread_mutex_unlock(mutex)
    // There is only one receiver, so the elements stay there.
    return receive(into: &taken)
  }

  /// Moves what is there into `taken`, without waiting. Returns false once closed, although it may have taken something.
  func receiveWaiting(into taken: inout [Element]) -> Bool {
    scheduler?.pass()
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    taken.append(contentsOf: elements)
    elements.removeAll(keepingCapacity: true)
    return !isClosed
  }

  /// Refuses new elements; the receiver gets what is there, and then the end. Further calls do nothing.
  func close() {
    pthread_mutex_lock(mutex)
    isClosed = true
    isWaiting = false
    pthread_mutex_unlock(mutex)
    pthread_cond_broadcast(arrival)
    scheduler?.pass()
  }
}

/// Runs `body` on a thread of its own: file I/O must not block the threads that run tasks.
///
/// - Parameter name: at most 15 bytes.
/// - Throws: where the system has no thread for it, ``LogStoreError/inputOutput(operation:path:code:)``; `body` is gone then.
func startThread(
  _ name: String, _ scheduler: (any Scheduler)?, _ body: @escaping @Sendable () -> Void
) throws(LogStoreError) {
  if let scheduler { return scheduler.start(name, body) }
  final class Box {
    let name: String
    let body: @Sendable () -> Void
    init(_ name: String, _ body: @escaping @Sendable () -> Void) {
      self.name = name
      self.body = body
    }
  }
  var thread = pthread_t()
  let box = Unmanaged.passRetained(Box(name, body))
  let code = pthread_create(
    &thread, nil,
    { argument in
      // Proof for the unwrap: `pthread_create` was given this pointer below, and it is never null.
      let box = Unmanaged<Box>.fromOpaque(argument!).takeRetainedValue()
      // The name is only for `ps -L` and `perf`, so a refusal does not matter.
      _ = clinux_name_thread(box.name)
      box.body()
      return nil
    }, box.toOpaque())
  guard code == 0 else {
    // The thread that would have taken the box does not exist.
    box.release()
    throw .inputOutput(operation: "start the thread", path: name, code: code)
  }
  pthread_detach(thread)
}
