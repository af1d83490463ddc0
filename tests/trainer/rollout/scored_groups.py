"""Groups of episodes for tests of the scorer."""

PARTS = """
def longest(task, episodes):
    '''1 for the episode with the longest last message of its group.'''
    lengths = [len(episode.messages[-1].content) for episode in episodes]
    return [float(length == max(lengths)) for length in lengths]
longest.of_group = True

def down(task, episodes):
    raise ConnectionError("judge is down")
down.of_group = True
down.grounded = False

def short_of(task, episodes):
    return [1.0]
short_of.of_group = True

def words(evidence):
    return float(sum(len(text.split()) for text in evidence.assistant_messages))

def step(evidence):
    return float(evidence.step)
"""
