import crop_shares
import torch


def test_windows_show_most_of_what_they_are_placed_by():
    images, objects = torch.rand(40, 3, 56, 56), torch.zeros(40, 56, 56, dtype=torch.bool)
    objects[:, 5:25, 30:50] = True  # off the centre
    found = crop_shares.measure(images, objects, objects[:, ::8, ::8].float(), draws=5, seed=0)
    for part, best in (("object", "true object"), ("key", "what the key shows, too")):
        assert max(found, key=lambda place: found[place][part]) == best
        assert found[best][part] > found["random"][part] + 5
    net = "MobileNetV2, ImageNet labels"  # whose map tells the true object here
    assert found["random"]["object"] + 5 < found[net]["object"] <= found["true object"]["object"]
    for shares in found.values():
        assert shares["both"] <= min(shares["object"], shares["key"])


def test_a_key_holds_the_pixels_of_its_box():
    images = torch.zeros(1, 3, 6, 8)
    inside = crop_shares._inside(torch.tensor([[2.0, 1.0, 7.0, 4.0]]), images)[0]
    assert inside.nonzero().tolist() == [[y, x] for y in range(1, 4) for x in range(2, 7)]
